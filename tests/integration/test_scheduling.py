"""Events with an instant of their own, events that must not be published twice, and the turn of the log's periods."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

import pgbus
from pgbus.leader import maintenance
from pgbus.leader.sequencer import PARTITION_SIZE
from pgbus.telemetry import LeaderSlept, PeriodEnded, Sequenced
from tests.conftest import Connect
from tests.support import eventually
from tests.support.rows import Rows
from tests.support.waiting import widening
from tests.support.workers import Inbox, Watch, open_bus, running, until_idle


@pytest.fixture
async def inbox(bus: pgbus.Bus) -> Inbox[int]:
    """The numbers of the events `a.b` that a listener hears."""
    numbers: Inbox[int] = Inbox()

    @bus.listener("a.b", name="mail")
    async def handle(event: dict[str, int]) -> None:
        numbers.put(event["n"])

    return numbers


async def test_an_event_with_a_delay_arrives_when_it_is_due_and_not_before(
    database: str, connect: Connect, bus: pgbus.Bus, inbox: Inbox[int]
) -> None:
    connection = await connect(database)
    async with running(bus):
        before = await connection.fetchval("SELECT clock_timestamp()")
        await bus.publish({"n": 1}, topic="a.b", delay=1.5)
        after = await connection.fetchval("SELECT clock_timestamp()")
        await bus.publish({"n": 2}, topic="a.b")
        assert sorted(await inbox.take(2)) == [1, 2]
    row = await connection.fetchrow("SELECT * FROM pgbus.events WHERE payload = '{\"n\": 1}'")
    assert row
    assert before <= row["deliver_at"] - timedelta(seconds=1.5) <= after
    assert row["logged_at"] >= row["deliver_at"]  # and it never polls


async def test_scheduled_events_arrive_in_the_order_in_which_they_are_due(
    database: str, connect: Connect, bus: pgbus.Bus, inbox: Inbox[int]
) -> None:
    connection = await connect(database)
    now = datetime.now(UTC)
    async with running(bus):
        async with connection.transaction():  # all before the first is due, or, on a busy machine, none
            for number, delay in ((3, 0.45), (1, 0.15), (2, 0.3)):
                at = now + timedelta(seconds=delay)
                await bus.publish({"n": number}, topic="a.b", deliver_at=at, using=connection)
        assert await inbox.take(3) == [1, 2, 3]


async def test_an_instant_that_is_over_is_now(bus: pgbus.Bus, inbox: Inbox[int]) -> None:
    watch = Watch(bus)
    async with running(bus):
        for number in range(3):
            await watch.first(LeaderSlept, after=number)
            await bus.publish({"n": number}, topic="a.b", deliver_at=datetime.now(UTC) - timedelta(days=1))
            assert number in await inbox.take(number + 1)


async def test_a_sleeping_leader_wakes_for_an_event_due_before_the_next_one(bus: pgbus.Bus, inbox: Inbox[int]) -> None:
    watch = Watch(bus)
    async with running(bus):
        await bus.publish({"n": 2}, topic="a.b", delay=3600)
        await watch.first(LeaderSlept)
        await bus.publish({"n": 1}, topic="a.b", delay=0.2)
        assert await inbox.take(1) == [1]


async def test_an_event_is_cancelled_until_it_is_due(
    database: str, connect: Connect, bus: pgbus.Bus, inbox: Inbox[int]
) -> None:
    connection = await connect(database)
    async with running(bus):
        early = await bus.publish({"n": 1}, topic="a.b", delay=0.2)
        late = await bus.publish({"n": 2}, topic="a.b", delay=3600)
        at_once = await bus.publish({"n": 3}, topic="a.b")
        assert await bus.cancel(late.event_id)
        assert not await bus.cancel(late.event_id)
        assert not await bus.cancel(at_once.event_id)
        assert sorted(await inbox.take(2)) == [1, 3]
        assert not await bus.cancel(early.event_id)
        await until_idle(connection)
    assert sorted(inbox.items) == [1, 3]


async def test_cancelling_in_an_open_transaction_does_not_hold_up_the_log(
    database: str, connect: Connect, bus: pgbus.Bus, inbox: Inbox[int]
) -> None:
    connection = await connect(database)
    async with connection.transaction():
        await cancel_just_in_time(bus, connection)
        async with running(bus):
            await bus.publish({"n": 2}, topic="a.b", delay=1)
            await bus.publish({"n": 3}, topic="a.b")
            assert sorted(await inbox.take(2)) == [2, 3]
    await until_idle(connection)
    assert sorted(inbox.items) == [2, 3]


async def cancel_just_in_time(bus: pgbus.Bus, connection: asyncpg.Connection) -> None:
    """Cancel an event on that connection, so that it is due soon; no worker may run, as it might come first."""
    for delay in widening(0.2):
        doomed = await bus.publish({"n": 1}, topic="a.b", delay=delay)
        if await bus.cancel(doomed.event_id, using=connection):
            return
        await connection.execute("DELETE FROM pgbus.outbox WHERE event_id = $1", doomed.event_id)


async def test_an_event_whose_cancelling_is_rolled_back_arrives(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database, poll_interval=0.1) as bus:
        numbers: Inbox[int] = Inbox()

        @bus.listener("a.b", name="mail")
        async def handle(event: dict[str, int]) -> None:
            numbers.put(event["n"])

        transaction = connection.transaction()
        await transaction.start()
        await cancel_just_in_time(bus, connection)
        async with running(bus):
            await bus.publish({"n": 2}, topic="a.b", delay=1)
            await numbers.take(1)
            await transaction.rollback()
            assert await numbers.take(2) == [2, 1]


async def test_an_event_due_before_its_commit_arrives_right_after_it(
    database: str, connect: Connect, bus: pgbus.Bus, inbox: Inbox[int]
) -> None:
    connection = await connect(database)
    async with running(bus):
        async with connection.transaction():
            await bus.publish({"n": 1}, topic="a.b", delay=0.05, using=connection)
            await bus.publish({"n": 2}, topic="a.b", delay=0.2)
            assert await inbox.take(1) == [2]
        assert await inbox.take(2) == [2, 1]


async def test_a_second_event_under_a_dedup_key_is_not_published(bus: pgbus.Bus, inbox: Inbox[int]) -> None:
    async with running(bus):
        first = await bus.publish({"n": 1}, topic="a.b", dedup_key="order-1")
        second = await bus.publish({"n": 2}, topic="a.b", dedup_key="order-1")
        other = await bus.publish({"n": 3}, topic="a.b", dedup_key="order-2")
        assert sorted(await inbox.take(2)) == [1, 3]
        again = await bus.publish({"n": 4}, topic="a.b", dedup_key="order-1")
        await bus.publish({"n": 5}, topic="a.b")
        await inbox.until(lambda numbers: 5 in numbers)
    assert first.event_id == second.event_id == again.event_id != other.event_id
    assert sorted(inbox.items) == [1, 3, 5]


async def test_of_many_publishers_with_one_dedup_key_one_wins(bus: pgbus.Bus, inbox: Inbox[int]) -> None:
    async with running(bus):
        sent = await asyncio.gather(*(bus.publish({"n": n}, topic="a.b", dedup_key="same") for n in range(20)))
        [winner] = await inbox.take(1)
        await bus.publish({"n": 99}, topic="a.b")
        await inbox.until(lambda numbers: 99 in numbers)
    assert len({message.event_id for message in sent}) == 1
    assert inbox.items == [winner, 99]


# --------------------------------------------------------------------------------------------- periods and retention


@pytest.fixture
def busy_housekeeping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chores at once and all the time, where else they are done every minute."""
    monkeypatch.setattr(maintenance, "CLAIMS_INTERVAL", 0.02)
    monkeypatch.setattr(maintenance, "CHORES_INTERVAL", 0.02)


async def partitions(connection: asyncpg.Connection) -> list[int]:
    rows = await connection.fetch("SELECT number FROM pgbus.partitions ORDER BY number")
    return [row["number"] for row in rows]


async def test_after_a_period_events_and_history_go_into_the_next_partition(
    database: str, connect: Connect, busy_housekeeping: None
) -> None:
    connection = await connect(database)
    await Rows(connection).event(1, logged_at=datetime.now(UTC) - timedelta(days=2))
    async with open_bus(database, partition_period=86_400) as bus:
        numbers: Inbox[int] = Inbox()

        @bus.listener("a.b", name="mail")
        async def handle(event: dict[str, int]) -> None:
            numbers.put(event["n"])

        watch = Watch(bus)
        async with running(bus):
            await watch.first(PeriodEnded)
            # A look that had begun before still writes to the old one: this event comes with it, or after it.
            await bus.publish({}, topic="nobody.hears")
            await eventually(lambda: connection.fetchval("SELECT true FROM pgbus.events WHERE topic = 'nobody.hears'"))
            await bus.publish({"n": 1}, topic="a.b")
            await bus.publish({"n": 2}, topic="a.b")
            await numbers.take(2)
            await until_idle(connection)
            await eventually(lambda: connection.fetchval("SELECT count(*) = 3 FROM pgbus.partitions"))
    rows = await connection.fetch("SELECT position FROM pgbus.events WHERE topic = 'a.b'")
    positions = [row["position"] for row in rows]
    assert {position // PARTITION_SIZE for position in positions} == {1}
    assert await connection.fetchval("SELECT count(*) FROM pgbus.attempts WHERE position = ANY ($1)", positions) == 2
    assert await connection.fetchval("SELECT count(DISTINCT tableoid) FROM pgbus.history") == 1
    assert await connection.fetchval("SELECT EXISTS (SELECT FROM pgbus.history_p1)")
    assert await partitions(connection) == [0, 1, 2]


async def test_a_new_leader_goes_on_in_the_last_partition(
    database: str, connect: Connect, busy_housekeeping: None
) -> None:
    connection = await connect(database)
    await connection.execute("SELECT pgbus.open_partition(1)")
    await Rows(connection).event(PARTITION_SIZE + 7)
    async with open_bus(database) as bus:
        watch = Watch(bus)
        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            await watch.first(Sequenced)
    assert await connection.fetchval("SELECT max(position) FROM pgbus.events") > PARTITION_SIZE + 7


async def test_retention_drops_an_expired_partition_with_its_history(
    database: str, connect: Connect, busy_housekeeping: None
) -> None:
    connection = await connect(database)
    rows = Rows(connection)
    await connection.execute("SELECT pgbus.open_partition(1)")
    listener_id = await rows.listener("mail", "a.b")
    await rows.event(5, "a.b", logged_at=datetime.now(UTC) - timedelta(days=3))
    await rows.attempt(listener_id, 5)
    await rows.event(PARTITION_SIZE, "a.b")
    async with open_bus(database, retention=86_400) as bus, running(bus):
        await eventually(lambda: connection.fetchval("SELECT count(*) = 1 FROM pgbus.events"))
    assert 0 not in await partitions(connection)
    assert await connection.fetchval("SELECT count(*) FROM pgbus.attempts") == 0
    assert await connection.fetchval("SELECT to_regclass('pgbus.events_p0')") is None


@pytest.mark.parametrize("debt", ["delivery", "dead letter", "cursor"])
async def test_retention_never_drops_what_is_still_owed_and_says_so_once(
    database: str, connect: Connect, busy_housekeeping: None, debt: str, caplog: pytest.LogCaptureFixture
) -> None:
    connection = await connect(database)
    rows = Rows(connection)
    await connection.execute("SELECT pgbus.open_partition(1)")
    listener_id = await rows.listener("slow", "a.b", cursor=5 if debt == "cursor" else None)
    await connection.execute("UPDATE pgbus.listeners SET state = 'paused'")
    await rows.event(5, "a.b", {"n": 5}, logged_at=datetime.now(UTC) - timedelta(days=3))
    await rows.event(PARTITION_SIZE, "x.y")
    if debt == "dead letter":
        await rows.dead_letter(listener_id, 5)
    elif debt == "delivery":
        await rows.delivery(listener_id, 5)
    async with open_bus(database, retention=86_400) as bus, running(bus):

        def refused() -> list[str]:
            return [message for message in caplog.messages if message.startswith("retention keeps partition 0")]

        await eventually(refused)
        await connection.execute(
            "INSERT INTO pgbus.dedup_keys VALUES ('seen', gen_random_uuid(), now() - interval '1 s')"
        )
        # Another round of chores is done.
        await eventually(lambda: connection.fetchval("SELECT count(*) = 0 FROM pgbus.dedup_keys"))
        assert len(refused()) == 1
        assert '"slow"' in refused()[0]
        assert 0 in await partitions(connection)
        await connection.execute("DELETE FROM pgbus.deliveries; DELETE FROM pgbus.dead_letters")
        await connection.execute("UPDATE pgbus.listeners SET cursor = NULL")
        await eventually(lambda: connection.fetchval("SELECT count(*) = 0 FROM pgbus.partitions WHERE number = 0"))
