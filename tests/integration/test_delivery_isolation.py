"""What long transactions, held snapshots, dying events and broken sessions do not do to everybody else."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

import pgbus
from pgbus.database.statements import deliveries
from pgbus.leader import mover
from pgbus.listeners import claimer
from pgbus.telemetry import ClaimsFreed, LeaderChanged, LeaderSlept, SessionLost, SessionOpened
from tests.conftest import Connect
from tests.support import eventually
from tests.support.orders import collect
from tests.support.rows import Rows
from tests.support.workers import Inbox, Watch, open_bus, running, until_idle


async def publish(bus: pgbus.Bus, *numbers: int, topic: str = "orders.placed") -> None:
    await bus.publish_many([{"n": number} for number in numbers], topic=topic)


async def test_floors_rise_while_someone_holds_a_snapshot(
    database: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A claim that comes after this time begins from the bottom, and its floor is 0 until it finds something.
    monkeypatch.setattr(claimer, "BOTTOM_INTERVAL", 3600.0)
    monkeypatch.setattr(mover, "FEW", 1)  # more would be handed over, without a claim
    connection, reader = await connect(database), await connect(database)
    async with open_bus(database) as bus:
        inbox: Inbox[int] = Inbox()

        @bus.listener("orders.placed", name="mail")
        async def handle(event: dict[str, int]) -> None:
            inbox.put(event["n"])

        async with running(bus) as worker, reader.transaction(isolation="repeatable_read"):
            await reader.fetch("SELECT count(*) FROM pgbus.outbox")
            for number in range(0, 100, 2):
                await publish(bus, number, number + 1)
                await inbox.take(number + 2)
            await until_idle(connection)
            last_id = await connection.fetchval("SELECT last_value FROM pgbus.outbox_id_seq")
            last = await connection.fetchval("SELECT max(position) FROM pgbus.events")
            await eventually(lambda: worker.floors.outbox is not None and worker.floors.outbox.high == last_id)
            assert last - 5 <= worker.floors.deliveries["mail"] <= last + 1


async def test_the_leader_remembers_the_hole_that_an_open_publisher_leaves(database: str, connect: Connect) -> None:
    slow = await connect(database)
    async with open_bus(database) as bus:
        inbox: Inbox[int] = Inbox()

        @bus.listener("orders.placed", name="mail")
        async def handle(event: dict[str, int]) -> None:
            inbox.put(event["n"])

        async with running(bus) as worker:
            transaction = slow.transaction()
            await transaction.start()
            slow_id = await slow.fetchval(
                "INSERT INTO pgbus.outbox (topic, payload) VALUES ('orders.placed', '{\"n\": -1}') RETURNING id"
            )
            for number in range(30):
                await publish(bus, number)
                await inbox.take(number + 1)
            frontier = worker.floors.outbox
            assert frontier
            assert frontier.questions(quiet_ones=True) == [range(slow_id, slow_id + 1)]
            assert frontier.questions() == []
            await transaction.commit()
            assert -1 in await inbox.take(31)
            await eventually(lambda: worker.floors.outbox and worker.floors.outbox.holes == ())


async def test_a_subtransaction_that_publishes_is_heard_after_the_whole_has_committed(
    database: str, connect: Connect
) -> None:
    slow = await connect(database)
    async with open_bus(database) as bus:
        inbox: Inbox[int] = Inbox()

        @bus.listener("orders.placed", name="mail")
        async def handle(event: dict[str, int]) -> None:
            inbox.put(event["n"])

        async with running(bus):
            async with slow.transaction():
                async with slow.transaction():
                    await bus.publish({"n": 1}, topic="orders.placed", using=slow)
                undone = slow.transaction()
                await undone.start()
                await bus.publish({"n": 2}, topic="orders.placed", using=slow)
                await undone.rollback()
                for number in range(10, 20):
                    await publish(bus, number)
                await inbox.take(10)
                assert 1 not in inbox.items
            await inbox.until(lambda numbers: 1 in numbers)
            await publish(bus, 20)
            await inbox.until(lambda numbers: 20 in numbers)
    assert 2 not in inbox.items


async def test_suspects_are_tried_one_at_a_time_in_a_process_while_others_go_on(
    database: str, connect: Connect
) -> None:
    connection = await connect(database)
    rows = Rows(connection)
    async with open_bus(database) as bus:
        at_work: list[int] = []
        most = 0
        seen, innocent = Inbox[int](), Inbox[int]()

        async def handle(event: dict[str, int]) -> None:
            nonlocal most
            if event["n"] < 0:
                innocent.put(event["n"])
                return
            at_work.append(event["n"])
            most = max(most, len(at_work))
            # Another event comes and goes meanwhile.
            await bus.publish({"n": -event["n"]}, topic="orders.placed")
            await innocent.until(lambda numbers: numbers.count(-event["n"]) == 2)
            at_work.remove(event["n"])
            seen.put(event["n"])

        for name in ("one", "two"):
            bus.listener("orders.placed", name=name)(handle)
        async with running(bus):
            pass
        listener_ids = [row["id"] for row in await connection.fetch("SELECT id FROM pgbus.listeners")]
        for position in range(1, 9):
            await rows.event(position, "orders.placed", {"n": position})
            await rows.delivery(listener_ids[position % 2], position)
        await connection.execute("UPDATE pgbus.deliveries SET crashes = 2, available_at = now()")
        async with running(bus):
            assert sorted(await seen.take(8)) == list(range(1, 9))
            await until_idle(connection)
    assert most == 1


async def test_a_suspect_whose_claim_failed_does_not_keep_the_others_from_being_tried(
    database: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await connect(database)
    rows = Rows(connection)
    skip = deliveries.skip_missing_events
    failures = [ConnectionError("the link broke after the claim")]

    async def skip_or_fail(*values: Any, **named: Any) -> list[int]:
        if failures:
            raise failures.pop()
        return await skip(*values, **named)

    monkeypatch.setattr(deliveries, "skip_missing_events", skip_or_fail)
    async with open_bus(database, lease=3) as bus:
        seen = collect(bus, name="mail")
        async with running(bus):
            pass
        listener_id = await connection.fetchval("SELECT id FROM pgbus.listeners")
        for position in (1, 2):
            await rows.event(position, "orders.placed", {"n": position})
            await rows.delivery(listener_id, position)
        await connection.execute("DELETE FROM pgbus.events WHERE position = 1")
        await connection.execute("UPDATE pgbus.deliveries SET crashes = 2, available_at = to_timestamp(first)")
        async with running(bus):
            assert await seen.take(1) == [2]
            await until_idle(connection)
    assert not failures


async def test_an_event_held_by_five_dead_workers_is_dead_and_its_run_is_handled(
    database: str, connect: Connect
) -> None:
    connection = await connect(database)
    rows = Rows(connection)
    async with open_bus(database) as bus:
        seen: Inbox[int] = Inbox()

        @bus.listener("orders.placed", name="mail")
        async def handle(event: dict[str, int]) -> None:
            seen.put(event["n"])

        async with running(bus):
            pass
        listener_id = await connection.fetchval("SELECT id FROM pgbus.listeners")
        for position in range(1, 5):
            await rows.event(position, "orders.placed", {"n": position})
            await rows.delivery(listener_id, position, worker_id=999)
        await connection.execute("UPDATE pgbus.deliveries SET crashes = CASE first WHEN 2 THEN 4 ELSE 3 END")
        watch = Watch(bus)
        async with running(bus):
            await watch.first(ClaimsFreed)
            assert sorted(await seen.take(3)) == [1, 3, 4]
            await until_idle(connection)
    assert [tuple(row) for row in await connection.fetch("SELECT position, error FROM pgbus.dead")] == [
        (2, "the worker died 5 times while it handled this event")
    ]


async def kill_session(connection: asyncpg.Connection, *, leader: bool) -> None:
    """End the session of the worker that leads, or of the one that does not."""
    query = """
        WITH found AS (
            SELECT l.pid
            FROM pg_locks AS l
            JOIN pgbus.workers AS w ON w.id = l.objid::bigint
            WHERE l.locktype = 'advisory' AND l.objsubid = 2
              AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
              AND l.classid = hashtext('pgbus.worker')::oid
              AND $1 = (w.leading_since IS NOT NULL)
        )
        SELECT pg_terminate_backend(f.pid, 5000) FROM found AS f WHERE (SELECT count(*) FROM found) = 1
        """
    # While the leader changes, it may be none for a moment, or both.
    await eventually(functools.partial(connection.fetchval, query, leader), message="no single session to kill")


async def end_leading(connection: asyncpg.Connection) -> None:
    """End the session with which a worker leads, and leave it the other one."""
    query = """
        SELECT pg_terminate_backend(l.pid, 5000)
        FROM pg_locks AS l
        WHERE l.locktype = 'advisory' AND l.objsubid = 2
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND l.classid = hashtext('pgbus.leader')::oid
        """
    await eventually(functools.partial(connection.fetchval, query), message="nobody leads")


@pytest.mark.parametrize("leader", [True, False], ids=["leader", "follower"])
async def test_a_worker_whose_session_is_killed_logs_it_once_and_loses_nothing(
    database: str, connect: Connect, leader: bool
) -> None:
    connection = await connect(database)
    async with open_bus(database) as first, open_bus(database) as second:
        inbox: Inbox[int] = Inbox()
        victim = Watch(first if leader else second)
        for bus in (first, second):

            @bus.listener("orders.placed", name="mail")
            async def handle(event: dict[str, int]) -> None:
                inbox.put(event["n"])

        async with running(first) as one:
            await eventually(lambda: one.leads)
            async with running(second):
                await publish(first, *range(10))
                await inbox.take(10)
                opened = len(victim.of(SessionOpened))
                await kill_session(connection, leader=leader)
                await publish(first, *range(10, 20))
                await inbox.until(lambda numbers: set(numbers) == set(range(20)))
                await victim.first(SessionOpened, after=opened)
                assert len(victim.of(SessionLost)) == 1
                await publish(second, 20)
                await inbox.until(lambda numbers: 20 in numbers)
                await until_idle(connection)
        if leader:
            assert [seen.leads for seen in victim.of(LeaderChanged)][:2] == [True, False]


@pytest.mark.parametrize("end", [end_leading, functools.partial(kill_session, leader=True)], ids=["leading", "both"])
async def test_a_leader_alone_that_loses_its_session_leads_again(
    database: str, connect: Connect, end: Callable[[asyncpg.Connection], Awaitable[None]]
) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        inbox: Inbox[int] = Inbox()
        watch = Watch(bus)

        @bus.listener("orders.placed", name="mail")
        async def handle(event: dict[str, int]) -> None:
            inbox.put(event["n"])

        async with running(bus):
            for number in range(3):
                await watch.first(LeaderSlept)
                await end(connection)
                await publish(bus, number)
                assert await inbox.until(lambda numbers, n=number: n in numbers)  # type: ignore[misc]
                await watch.first(LeaderChanged, after=2 * number + 2)
    assert sorted(set(inbox.items)) == [0, 1, 2]


async def test_events_of_a_key_keep_their_order_through_a_change_of_the_leader(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database) as first, open_bus(database) as second:
        done: list[int] = []
        inbox: Inbox[int] = Inbox()
        for bus in (first, second):

            @bus.listener("orders.placed", name="steps", ordered=True)
            async def handle(event: dict[str, int]) -> None:
                done.append(event["n"])
                await asyncio.sleep(0)
                inbox.put(event["n"])

        async with running(first) as one:
            await eventually(lambda: one.leads)
            async with running(second):
                for number in range(60):
                    await second.publish({"n": number}, topic="orders.placed", key="k")
                    if number == 20:
                        await end_leading(connection)
                    if number == 40:
                        await kill_session(connection, leader=True)
                await inbox.until(lambda numbers: 59 in numbers)
    # At least once: what was in flight may come twice, but never behind what follows it.
    firsts = list(dict.fromkeys(done))
    assert firsts == list(range(60))
