"""From a publisher's commit to the handler and the history: what every listener may rely on."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import asyncpg
import pytest

import pgbus
from pgbus.admin import Admin
from pgbus.bus import make_worker
from pgbus.leader.mover import RUN
from pgbus.telemetry import (
    ClaimsLost,
    LeaderSlept,
    Sequenced,
    Settled,
)
from tests.conftest import Connect
from tests.support import eventually
from tests.support.faultproxy import FaultProxy
from tests.support.orders import INSERT, collect, publish
from tests.support.waiting import PATIENCE
from tests.support.workers import QUICK_RETRY, Inbox, Watch, open_bus, running, until_idle


async def test_each_listener_gets_its_own_copy_and_history_tells_of_both(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database, process_name="worker-1") as bus:
        mail, ledger = collect(bus, name="mail"), collect(bus, name="ledger")
        async with running(bus):
            published = await bus.publish({"n": 7}, topic="orders.placed", key="k", headers={"a": "b"})
            assert (await mail.take(1), await ledger.take(1)) == ([7], [7])
            await until_idle(connection)
    rows = await connection.fetch("SELECT * FROM pgbus.event_history ORDER BY listener_name")
    assert [(row["listener_name"], row["outcome"], row["attempt"]) for row in rows] == [
        ("ledger", "done", 1),
        ("mail", "done", 1),
    ]
    assert {row["event_id"] for row in rows} == {published.event_id}
    assert {(row["key"], row["headers"], row["worker"]) for row in rows} == {("k", '{"a": "b"}', "worker-1")}
    assert all(row["published_at"] <= row["logged_at"] <= row["started_at"] and row["duration"] >= 0 for row in rows)


async def test_two_workers_share_the_events_of_one_listener_each_handled_once(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database, process_name="one") as one, open_bus(database, process_name="two") as two:
        inbox: Inbox[tuple[str, int]] = Inbox()
        for bus in (one, two):

            @bus.listener("orders.placed", name="mail", batch_size=5)
            async def handle(event: dict[str, int], name: str = bus.config.process_name) -> None:
                inbox.put((name, event["n"]))
                await asyncio.sleep(0)

        async with running(one), running(two):
            for start in range(0, 600, 20):
                await publish(one, *range(start, start + 20))
            await inbox.take(600)
            await until_idle(connection)
    assert sorted(number for _, number in inbox.items) == list(range(600))
    workers = await connection.fetch("SELECT worker, count(*) FROM pgbus.attempts GROUP BY worker ORDER BY worker")
    assert [row["worker"] for row in workers] == ["one", "two"]


async def test_a_run_of_many_events_is_one_delivery_per_listener(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        watch = Watch(bus)
        collect(bus, name="mail")
        async with running(bus):
            pass  # registered, and gone
        async with open_bus(database) as leader:
            watch = Watch(leader)
            await publish(leader, *range(RUN + 10))
            async with running(leader):
                await watch.until(lambda _: sum(seen.events for seen in watch.of(Sequenced)) == RUN + 10)
    rows = await connection.fetch("SELECT events, positions FROM pgbus.deliveries ORDER BY first")
    assert [tuple(row) for row in rows] == [(RUN, None), (10, None)]


async def test_publishing_notifies_a_sleeping_leader_and_not_an_awake_one(database: str, connect: Connect) -> None:
    connection, publisher = await connect(database), await connect(database)
    heard: list[str] = []
    await connection.add_listener("pgbus_wake", lambda *args: heard.append(args[3]))
    # Nobody leads, so nobody sleeps: the slot is free.
    await publisher.execute(INSERT, "nobody.hears", '{"n": 0}')
    await connection.fetch("SELECT 1")
    assert heard == []
    async with open_bus(database) as bus:
        watch, inbox = Watch(bus), collect(bus, name="mail")
        async with running(bus):
            await watch.first(LeaderSlept)
            await publisher.execute(INSERT, "orders.placed", '{"n": 1}')
            assert await inbox.take(1) == [1]
            await eventually(lambda: heard == [""])


async def test_a_burst_of_commits_sends_few_notifications_and_loses_no_event(database: str, connect: Connect) -> None:
    connection = await connect(database)
    heard: list[str] = []
    await connection.add_listener("pgbus_wake", lambda *args: heard.append(args[3]))
    async with open_bus(database) as bus:
        inbox = collect(bus, name="mail")

        async def insert(start: int) -> None:
            own = await asyncpg.connect(database)
            try:
                for number in range(start, start + 100):
                    await own.execute(INSERT, "orders.placed", json.dumps({"n": number}))
            finally:
                await own.close()

        async with running(bus):
            await asyncio.gather(*(insert(start) for start in range(0, 600, 100)))
            await inbox.take(600)
    await connection.fetch("SELECT 1")
    assert sorted(inbox.items) == list(range(600))
    assert len(heard) < 300


async def test_a_failed_attempt_comes_back_and_the_history_keeps_every_attempt(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        attempts: Inbox[int] = Inbox()

        @bus.listener("orders.placed", name="mail", retry=QUICK_RETRY)
        async def handle(event: dict[str, int], context: pgbus.Context) -> None:
            attempts.put(context.attempt)
            if context.attempt < 3:
                raise ValueError(f"no {context.attempt}")

        async with running(bus):
            await publish(bus, 1)
            assert await attempts.take(3) == [1, 2, 3]
            await until_idle(connection)
    rows = await connection.fetch("SELECT attempt, outcome, error FROM pgbus.attempts ORDER BY attempt")
    assert [tuple(row) for row in rows] == [
        (1, "retry", "ValueError: no 1"),
        (2, "retry", "ValueError: no 2"),
        (3, "done", None),
    ]


async def test_the_last_failed_attempt_makes_a_dead_letter_and_others_go_on(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database, process_name="worker-1") as bus:
        inbox: Inbox[int] = Inbox()

        @bus.listener("orders.placed", name="mail", retry=pgbus.RetryPolicy(max_attempts=2, base_delay=0.01))
        async def handle(event: dict[str, int]) -> None:
            if event["n"] == 1:
                raise ValueError("no")
            inbox.put(event["n"])

        async with running(bus):
            await publish(bus, 0, 1, 2)
            assert sorted(await inbox.take(2)) == [0, 2]
            await until_idle(connection)
    [letter] = await connection.fetch("SELECT * FROM pgbus.dead")
    assert (letter["attempts"], letter["error"], letter["worker"]) == (2, "ValueError: no", "worker-1")
    assert json.loads(letter["payload"]) == {"n": 1}
    assert letter["traceback"].endswith("ValueError: no\n")
    outcomes = await connection.fetch("SELECT outcome, count(*) FROM pgbus.attempts GROUP BY outcome ORDER BY outcome")
    assert [tuple(row) for row in outcomes] == [("dead", 1), ("done", 2), ("retry", 1)]


async def test_a_retried_dead_letter_is_delivered_again_from_its_first_attempt(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        attempts: Inbox[int] = Inbox()
        broken = True

        @bus.listener("orders.placed", name="mail", retry=1)
        async def handle(event: dict[str, int], context: pgbus.Context) -> None:
            attempts.put(context.attempt)
            if broken:
                raise ValueError("no")

        async with running(bus):
            await publish(bus, 1)
            await eventually(lambda: connection.fetchval("SELECT count(*) FROM pgbus.dead_letters"))
            broken = False
            assert len(await Admin(await connect(database)).dead_letters.retry()) == 1
            assert await attempts.take(2) == [1, 1]
            await until_idle(connection)
    assert await connection.fetchval("SELECT count(*) FROM pgbus.dead_letters") == 0


async def test_a_failing_and_a_hanging_listener_do_not_delay_another(database: str) -> None:
    async with open_bus(database, grace=0) as bus:
        hung: Inbox[int] = Inbox()
        inbox = collect(bus, name="quick")

        @bus.listener("orders.placed", name="failing", retry=pgbus.RetryPolicy(max_attempts=50, base_delay=0.01))
        async def fail(event: dict[str, int]) -> None:
            raise ValueError("no")

        @bus.listener("orders.placed", name="hanging", concurrency=1)
        async def hang(event: dict[str, int]) -> None:
            hung.put(event["n"])
            await asyncio.Event().wait()

        async with running(bus):
            await publish(bus, 0)
            await hung.take(1)
            await publish(bus, *range(1, 100))
            assert sorted(await inbox.take(100)) == list(range(100))
            assert hung.items == [0]


async def test_two_namespaces_of_one_database_do_not_hear_each_other(database: str, connect: Connect) -> None:
    from pgbus import migrate

    await asyncio.to_thread(lambda: migrate.upgrade(database, namespace="other"))
    async with open_bus(database) as bus, open_bus(database, namespace="other") as other:
        here, there = collect(bus, name="mail"), collect(other, name="mail")
        async with running(bus) as worker, running(other) as other_worker:
            await eventually(lambda: worker.leads and other_worker.leads)
            await publish(bus, 1)
            await publish(other, 2)
            assert (await here.take(1), await there.take(1)) == ([1], [2])
    connection = await connect(database)
    for namespace, number in (("pgbus", 1), ("other", 2)):
        payloads = await connection.fetch(f"SELECT payload FROM {namespace}.event_history")
        assert [json.loads(row["payload"]) for row in payloads] == [{"n": number}]


async def test_plain_sql_and_a_trigger_publish_as_well_as_python(database: str, connect: Connect) -> None:
    connection = await connect(database)
    await connection.execute(
        """
        CREATE TABLE orders (n integer);
        CREATE FUNCTION publish_order() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO pgbus.outbox (topic, payload) VALUES ('orders.placed', jsonb_build_object('n', NEW.n));
            RETURN NEW;
        END $$;
        CREATE TRIGGER publish_order AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION publish_order();
        """
    )
    async with open_bus(database) as bus:
        watch, inbox = Watch(bus), collect(bus, name="mail")
        async with running(bus):
            await watch.first(LeaderSlept)
            await connection.execute("INSERT INTO pgbus.outbox (topic, payload) VALUES ('orders.placed', '{\"n\": 1}')")
            assert await inbox.take(1) == [1]
            await connection.execute("INSERT INTO orders SELECT * FROM generate_series(2, 4)")
            assert sorted(await inbox.take(4)) == [1, 2, 3, 4]
            await connection.copy_records_to_table(
                "outbox",
                schema_name="pgbus",
                columns=["topic", "payload"],
                records=[("orders.placed", '{"n": 5}'), ("orders.placed", '{"n": 6}')],
            )
            assert sorted(await inbox.take(6)) == [1, 2, 3, 4, 5, 6]


async def test_a_rolled_back_event_reaches_nobody(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        inbox = collect(bus, name="mail")
        async with running(bus):
            transaction = connection.transaction()
            await transaction.start()
            await bus.publish({"n": 1}, topic="orders.placed", using=connection)
            await transaction.rollback()
            await publish(bus, 2)
            assert await inbox.take(1) == [2]
            await until_idle(connection)
    assert inbox.items == [2]


async def test_a_worker_of_no_listeners_still_leads(database: str) -> None:
    async with open_bus(database) as bus:
        watch = Watch(bus)
        async with running(bus):
            await publish(bus, 1, 2)
            assert (await watch.first(Sequenced)).events == 2


async def test_a_listener_declared_while_the_worker_runs_is_run_too(database: str) -> None:
    async with open_bus(database) as bus:
        watch = Watch(bus)
        async with running(bus):
            await watch.first(LeaderSlept)
            inbox = collect(bus, name="late", start="beginning")
            await publish(bus, 1)
            assert await inbox.take(1) == [1]


async def test_an_ordinary_settlement_counts_each_event_once(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        watch = Watch(bus)

        @bus.listener("orders.placed", name="mail", retry=1)
        async def handle(event: dict[str, int]) -> None:
            if event["n"] % 2:
                raise ValueError("odd")

        async with running(bus):
            await publish(bus, *range(10))
            await until_idle(connection)
            await watch.until(lambda _: sum(seen.done + seen.dead for seen in watch.of(Settled)) == 10)
    assert sum(seen.done for seen in watch.of(Settled)) == sum(seen.dead for seen in watch.of(Settled)) == 5
    assert watch.of(ClaimsLost) == []


async def test_run_ends_with_an_error_where_the_schema_is_missing(empty_database: str) -> None:
    async with open_bus(empty_database) as bus:
        with pytest.raises(pgbus.SchemaVersionError, match="upgrade"):
            async with asyncio.timeout(PATIENCE):
                await make_worker(bus).run()


@pytest.mark.parametrize("ordered", [False, True], ids=["plain", "ordered"])
async def test_an_event_that_was_deleted_from_the_log_is_skipped_and_blocks_nothing(
    database: str, connect: Connect, caplog: pytest.LogCaptureFixture, ordered: bool
) -> None:
    connection = await connect(database)
    async with open_bus(database, process_name="worker-1") as bus:
        inbox = collect(bus, name="mail", ordered=ordered)
        async with running(bus):
            await connection.execute("UPDATE pgbus.listeners SET state = 'paused'")
            for number in range(4):
                await bus.publish({"n": number}, topic="orders.placed", key="k")
            await eventually(lambda: connection.fetchval("SELECT count(*) = 4 FROM pgbus.events"))
            await connection.execute("DELETE FROM pgbus.events WHERE payload ->> 'n' IN ('0', '2')")
            await Admin(connection).listeners.resume("mail")
            await until_idle(connection)
    assert inbox.items == [1, 3]
    told = await connection.fetch("SELECT position, outcome, worker FROM pgbus.attempts ORDER BY position")
    assert [(row["outcome"], row["worker"]) for row in told] == [("skipped", "worker-1"), ("done", "worker-1")] * 2
    assert "mail skips" in caplog.text


async def test_a_retry_begins_after_the_attempt_that_it_repeats_however_slow_the_link_was(
    database: str, connect: Connect
) -> None:
    connection = await connect(database)
    async with FaultProxy(database) as proxy, open_bus(proxy.dsn, pool_size=3) as bus, open_bus(database) as publisher:
        inbox: Inbox[int] = Inbox()
        at_once = pgbus.RetryPolicy(max_attempts=2, base_delay=0.0, jitter=0.0)

        @bus.listener("orders.placed", name="mail", concurrency=1, batch_size=1, retry=at_once)
        async def handle(event: dict[str, int]) -> None:
            if event["n"] == 1:  # the next claim is asked for now, and arrives at the server in a while
                proxy.silence()
                asyncio.get_running_loop().call_later(0.2, proxy.restore)
                return
            inbox.put(event["n"])
            raise ValueError

        async with running(bus):
            await publish(publisher, 1, 2)
            await inbox.take(2)
            await until_idle(connection)
    query = "SELECT started_at, duration FROM pgbus.event_history WHERE outcome <> 'done' ORDER BY attempt"
    [first, retry] = await connection.fetch(query)
    assert first["started_at"] + timedelta(seconds=first["duration"]) <= retry["started_at"]
