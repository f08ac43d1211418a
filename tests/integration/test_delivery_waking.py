"""Who is woken by a publisher and by the leader, and what an open transaction holds up."""

from __future__ import annotations

import asyncio

import pytest

from pgbus.leader import sequencer
from pgbus.telemetry import (
    LeaderSlept,
    WorkersCounted,
)
from pgbus.worker import upkeep
from tests.conftest import Connect
from tests.support import eventually
from tests.support.orders import INSERT, collect, publish
from tests.support.workers import Watch, open_bus, running, until_idle

COUNTING = "SELECT true FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ 'seen_declarations' LIMIT 1"


async def test_an_open_publisher_delays_nobody_and_its_event_arrives_after_commit(
    database: str, connect: Connect
) -> None:
    slow = await connect(database)
    async with open_bus(database) as bus:
        watch, inbox = Watch(bus), collect(bus, name="mail")
        async with running(bus):
            transaction = slow.transaction()
            await transaction.start()
            await slow.execute(INSERT, "orders.placed", '{"n": 0}')
            for number in range(1, 30):
                await publish(bus, number)
                assert number in await inbox.take(number)
            assert 0 not in inbox.items
            slept = len(watch.of(LeaderSlept))
            await watch.first(LeaderSlept, after=slept)
            await transaction.commit()
            assert 0 in await inbox.take(30)
    assert sorted(inbox.items) == list(range(30))


async def test_the_leader_looks_ever_more_rarely_while_a_publisher_stays_open(
    database: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []
    wait = sequencer._wait

    async def wait_and_tell(woken: asyncio.Event, pause: float) -> bool:
        naps.append(pause)
        return await wait(woken, pause)

    monkeypatch.setattr(sequencer, "_wait", wait_and_tell)
    slow = await connect(database)
    async with open_bus(database) as bus:
        inbox = collect(bus, name="mail")
        # Before anyone leads: it would notify a leader that sleeps already, which then need not look by itself.
        transaction = slow.transaction()
        await transaction.start()
        await slow.execute(INSERT, "orders.placed", '{"n": 0}')
        async with running(bus):
            await publish(bus, 1)
            await inbox.take(1)
            naps.clear()
            await eventually(lambda: len(naps) >= 22)
            assert naps == sorted(naps)
            assert naps[-1] > 2 * naps[0]
            await transaction.commit()
            assert sorted(await inbox.take(2)) == [0, 1]


async def test_a_worker_that_has_just_started_is_notified_by_a_leader_that_was_alone(
    database: str, connect: Connect
) -> None:
    connection = await connect(database)
    async with open_bus(database) as leading, open_bus(database) as bus:
        collect(leading, name="other")
        watch, inbox = Watch(leading), collect(bus, name="mail")
        async with running(bus):
            pass  # its listener is known
        async with running(leading):
            await watch.first(LeaderSlept)
            await watch.until(lambda happenings: WorkersCounted(0) in happenings)
            async with running(bus):
                # The first one may be found by the look that every worker begins with.
                for number in (1, 2, 3):
                    await publish(leading, number)
                    assert number in await inbox.take(number)
                    await until_idle(connection)


async def test_a_worker_that_arrives_while_the_leader_counts_the_others_is_notified(
    database: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, holder = await connect(database), await connect(database)
    monkeypatch.setattr(upkeep, "TOUCH_INTERVAL", 0.0)
    async with open_bus(database, poll_interval=0.05) as leading, open_bus(database) as bus:
        watch, inbox = Watch(leading), collect(bus, name="mail")
        async with running(bus):
            pass  # its listener is known
        async with running(leading) as leader:
            await watch.until(lambda happenings: WorkersCounted(0) in happenings)
            await eventually(lambda: leader.leads)
            async with holder.transaction():
                # The count waits for its own row, and its snapshot is of before the other worker.
                await holder.execute("SELECT FROM pgbus.workers FOR UPDATE")
                await eventually(lambda: connection.fetchval(COUNTING))
                monkeypatch.setattr(upkeep, "TOUCH_INTERVAL", 3600.0)
                async with running(bus):
                    await eventually(lambda: leader._membership.has_others)
                    counts = len(watch.of(WorkersCounted))
                    await holder.execute("ROLLBACK; BEGIN")
                    assert await watch.first(WorkersCounted, after=counts) == WorkersCounted(0)
                    assert leader._membership.has_others, "else it notifies nobody until it counts again"
                    await publish(leading, 1)
                    assert await inbox.take(1) == [1]
