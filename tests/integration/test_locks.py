"""The leader waits for nobody: what others hold locked, and for how long, holds up nothing else."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

import pgbus
from pgbus.leader.maintenance import Maintenance
from pgbus.leader.mover import BATCH_BYTES
from pgbus.telemetry import LeaderChanged, LeaderSlept, Sequenced
from tests.conftest import Connect
from tests.support import eventually
from tests.support.maintenance import make_maintenance
from tests.support.rows import Rows
from tests.support.waiting import PATIENCE
from tests.support.workers import Inbox, Watch, open_bus, running, until_idle


@pytest.fixture
async def holder(database: str, connect: Connect) -> asyncpg.Connection:
    """Somebody who holds locks."""
    return await connect(database)


@pytest.fixture
async def chores(database: str, connect: Connect) -> Maintenance:
    """The leader's housekeeping, on a session of its own that would wait."""
    connection = await connect(database)
    await connection.execute("SET lock_timeout = '10min'")
    return make_maintenance(connection, config=pgbus.Config(retention=60.0), partition=3)


def collect(bus: pgbus.Bus) -> Inbox[int]:
    inbox: Inbox[int] = Inbox()

    @bus.listener("a.b", name="mail")
    async def handle(event: dict[str, Any]) -> None:
        inbox.put(event["n"])

    return inbox


async def test_an_event_whose_row_is_locked_delays_no_other_and_comes_later(
    database: str, connect: Connect, holder: asyncpg.Connection
) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        inbox = collect(bus)
        await bus.publish_many([{"n": n} for n in range(3)], topic="a.b")
        async with holder.transaction():
            await holder.execute("DELETE FROM pgbus.outbox WHERE payload = '{\"n\": 1}'")
            async with running(bus):
                assert sorted(await inbox.take(2)) == [0, 2]
                await bus.publish({"n": 3}, topic="a.b")
                assert sorted(await inbox.take(3)) == [0, 2, 3]
                await holder.execute("ROLLBACK; BEGIN")
                assert sorted(await inbox.take(4)) == [0, 1, 2, 3]
                await until_idle(connection)


async def test_who_leads_is_written_again_when_a_row_of_it_was_locked(
    database: str, connect: Connect, holder: asyncpg.Connection
) -> None:
    connection = await connect(database)
    await Rows(connection).worker("gone", live=False)
    await connection.execute("UPDATE pgbus.workers SET leading_since = now()")
    leading = "SELECT array_agg(name ORDER BY name) FROM pgbus.workers WHERE leading_since IS NOT NULL"
    async with open_bus(database, process_name="ours") as bus:
        collect(bus)
        async with holder.transaction():
            await holder.execute("SELECT FROM pgbus.workers FOR UPDATE")
            async with running(bus) as worker:

                async def are_leading(*names: str) -> bool:
                    return bool(await connection.fetchval(leading) == [*names])

                await eventually(lambda: worker.leads)
                # Eventually: our own row may be locked, too, while the worker says that it is here.
                await eventually(lambda: are_leading("gone", "ours"))
                await holder.execute("ROLLBACK; BEGIN")
                await eventually(lambda: are_leading("ours"))


async def test_the_leader_goes_on_while_rows_that_its_chores_touch_are_locked(
    database: str, holder: asyncpg.Connection, chores: Maintenance
) -> None:
    rows = Rows(holder)
    listener_id = await rows.listener("was ordered", "a.b")
    await rows.event(1)
    await rows.delivery(listener_id, 1, lane=3)
    await rows.worker("gone", live=False)
    await holder.execute(
        """
        UPDATE pgbus.workers SET last_seen_at = now() - interval '1 year', leading_since = now();
        INSERT INTO pgbus.dedup_keys VALUES ('k', gen_random_uuid(), now() - interval '1 hour');
        INSERT INTO pgbus.schedules (schedule_name, rule) VALUES ('tidy', 'every 60 s');
        INSERT INTO pgbus.schedule_runs (run_id, schedule_name, due_at, attempt, worker, started_at, outcome,
                                         finished_at)
        SELECT gen_random_uuid(), 'tidy', at, 1, 'w', at, 'done', at
        FROM (SELECT now() - interval '5 years' AS at) AS past
        """
    )
    async with holder.transaction():
        for table in ("deliveries", "workers", "dedup_keys", "schedule_runs", "listeners"):
            await holder.execute(f"SELECT FROM pgbus.{table} FOR UPDATE")
        async with asyncio.timeout(PATIENCE):
            await chores.do_chores()
        async with open_bus(database) as bus:
            inbox = collect(bus)
            async with running(bus):
                await bus.publish({"n": 1}, topic="a.b")
                await inbox.take(1)
    await chores.do_chores()
    left = await holder.fetchrow(
        """
        SELECT (SELECT count(*) FROM pgbus.dedup_keys) AS keys, (SELECT count(*) FROM pgbus.schedule_runs) AS runs,
               (SELECT count(*) FROM pgbus.workers WHERE name = 'gone') AS workers,
               (SELECT count(*) FROM pgbus.deliveries WHERE lane IS NOT NULL) AS lanes
        """
    )
    assert left
    assert tuple(left) == (0, 0, 0, 0)


async def test_pruning_leaves_a_key_that_is_renewed_at_this_moment(
    database: str, connect: Connect, holder: asyncpg.Connection, chores: Maintenance
) -> None:
    async with open_bus(database) as bus:
        first = await bus.publish({"n": 1}, topic="a.b", dedup_key="k")
        await holder.execute("UPDATE pgbus.dedup_keys SET expires_at = now() - interval '1 hour'")
        transaction = holder.transaction()
        await transaction.start()
        renewed = await bus.publish({"n": 2}, topic="a.b", dedup_key="k", using=holder)
        pruning = asyncio.create_task(chores.do_chores())
        await asyncio.wait([pruning], timeout=1)
        await transaction.commit()
        await pruning
        again = await bus.publish({"n": 3}, topic="a.b", dedup_key="k")
        assert renewed.event_id != first.event_id
        assert again.event_id == renewed.event_id


async def test_retention_stops_for_a_minute_at_the_first_partition_in_use(
    holder: asyncpg.Connection, chores: Maintenance
) -> None:
    rows = Rows(holder)
    for number in range(4):
        await holder.execute("SELECT pgbus.open_partition($1)", number)
        await rows.event(number * 1_000_000_000 + 1, logged_at=datetime.now(UTC) - timedelta(days=4 - number))
    async with holder.transaction():
        await holder.execute("SELECT count(*) FROM pgbus.events")
        async with asyncio.timeout(PATIENCE):
            await chores.do_chores()
    assert await holder.fetchval("SELECT count(*) FROM pgbus.partitions") >= 4
    await chores.do_chores()
    assert await holder.fetchval("SELECT array_agg(number ORDER BY number) FROM pgbus.partitions") == [3, 4]


async def test_large_events_are_logged_in_batches_that_are_bounded_by_their_size(
    database: str, connect: Connect
) -> None:
    connection = await connect(database)
    await connection.execute(
        """
        INSERT INTO pgbus.outbox (topic, payload)
        SELECT 'a.b', (SELECT jsonb_build_object('n', k, 'pad', jsonb_agg(md5(random()::text || n)))
                       FROM generate_series(1, 10000) AS n)
        FROM generate_series(1, 60) AS k
        """
    )
    async with open_bus(database) as bus:
        inbox = collect(bus)
        watch = Watch(bus)
        async with running(bus):
            assert sorted(await inbox.take(60)) == list(range(1, 61))
    size = await connection.fetchval("SELECT max(pg_column_size(payload)) FROM pgbus.events")
    counts = [look.events for look in watch.of(Sequenced)]
    assert sum(counts) == 60
    assert 2 * size < max(counts) * size <= BATCH_BYTES


async def test_a_look_that_takes_too_long_is_cut_off_and_the_next_one_takes_less(
    database: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without an end to its silence, which a busy machine would have it keep.
    settings = {"lock_timeout": "100ms", "statement_timeout": "1s", "idle_session_timeout": "0"}
    monkeypatch.setattr("pgbus.leader.leader.LEADER_SETTINGS", settings)
    connection = await connect(database)
    # Each row of the log takes 10 ms: 200 of them take too long.
    await connection.execute(
        """
        CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.01); RETURN NEW; END $$;
        CREATE TRIGGER slow BEFORE INSERT ON pgbus.events_p0 FOR EACH ROW EXECUTE FUNCTION slow();
        INSERT INTO pgbus.outbox (topic, payload)
        SELECT 'a.b', jsonb_build_object('n', n) FROM generate_series(1, 200) AS n
        """
    )
    async with open_bus(database) as bus:
        inbox = collect(bus)
        watch = Watch(bus)
        async with running(bus):
            assert sorted(await inbox.take(200)) == list(range(1, 201))
            assert len(watch.of(LeaderChanged)) == 1, "the session was kept"


async def test_one_event_is_heard_by_five_thousand_listeners(database: str, connect: Connect) -> None:
    connection = await connect(database)
    await connection.execute(
        """
        INSERT INTO pgbus.listeners (listener_name) SELECT 'listener ' || n FROM generate_series(1, 5000) AS n;
        INSERT INTO pgbus.subscriptions (listener_id, pattern) SELECT id, 'a.b' FROM pgbus.listeners
        """
    )
    async with open_bus(database) as one, open_bus(database) as two:
        first, second = collect(one), collect(two)
        watch = Watch(one, two)  # either of them may lead
        async with running(one), running(two):
            await watch.first(LeaderSlept)
            await one.publish({"n": 1}, topic="a.b")

            async def owed() -> bool:
                return bool(await connection.fetchval("SELECT count(*) >= 5000 FROM pgbus.deliveries"))

            await eventually(lambda: first.items + second.items == [1])
            await eventually(owed)
            await one.publish({"n": 2}, topic="a.b")
            await eventually(lambda: sorted(first.items + second.items) == [1, 2])


async def test_a_worker_takes_another_id_when_the_lock_of_its_id_is_held(
    database: str, holder: asyncpg.Connection
) -> None:
    await holder.execute("SELECT pg_advisory_lock(hashtext('pgbus.worker'), 1)")
    async with open_bus(database) as bus, running(bus):
        assert await holder.fetchval("SELECT array_agg(id) FROM pgbus.workers") == [2]
