"""From a publisher's commit to the handler and the history: what every listener may rely on."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest

import pgbus
from pgbus.admin import Admin
from pgbus.bus import make_worker
from pgbus.leader.sequencer import RUN
from pgbus.telemetry import (
    Claimed,
    ClaimsFreed,
    ClaimsLost,
    LeaderChanged,
    LeaderSlept,
    ListenerDraining,
    Sequenced,
    Settled,
    WorkersCounted,
)
from tests.conftest import Connect
from tests.support import eventually
from tests.support.rows import Rows
from tests.support.workers import QUICK_RETRY, Inbox, Watch, open_bus, running, until_idle

INSERT = "INSERT INTO pgbus.outbox (topic, payload) VALUES ($1, $2)"


def collect(bus: pgbus.Bus, topic: str = "orders.placed", *, name: str, **options: Any) -> Inbox[int]:
    """A listener that notes the `n` of its events."""
    inbox: Inbox[int] = Inbox()

    @bus.listener(topic, name=name, **options)
    async def handle(event: dict[str, int]) -> None:
        inbox.put(event["n"])

    return inbox


async def publish(bus: pgbus.Bus, *numbers: int, topic: str = "orders.placed") -> None:
    await bus.publish_many([{"n": number} for number in numbers], topic=topic)


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


async def test_two_workers_share_the_events_of_one_listener_and_neither_repeats_the_other(
    database: str, connect: Connect
) -> None:
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
    workers = await connection.fetch("SELECT worker, count(*) FROM pgbus.history GROUP BY worker ORDER BY worker")
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


async def test_publishing_to_an_awake_leader_sends_no_notification_and_to_a_sleeping_one_does(
    database: str, connect: Connect
) -> None:
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


async def test_a_burst_of_commits_sends_far_fewer_notifications_than_events_and_loses_none(
    database: str, connect: Connect
) -> None:
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
    rows = await connection.fetch("SELECT attempt, outcome, error FROM pgbus.history ORDER BY attempt")
    assert [tuple(row) for row in rows] == [
        (1, "retry", "ValueError: no 1"),
        (2, "retry", "ValueError: no 2"),
        (3, "done", None),
    ]


async def test_the_last_failed_attempt_makes_a_dead_letter_with_its_traceback_and_others_go_on(
    database: str, connect: Connect
) -> None:
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
    outcomes = await connection.fetch("SELECT outcome, count(*) FROM pgbus.history GROUP BY outcome ORDER BY outcome")
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


async def test_an_open_publisher_holds_up_nobody_and_its_own_event_arrives_after_its_commit(
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
                assert number in await inbox.take(number, timeout=2)
            assert 0 not in inbox.items
            slept = len(watch.of(LeaderSlept))
            await watch.first(LeaderSlept, after=slept)
            await transaction.commit()
            assert 0 in await inbox.take(30, timeout=5)
    assert sorted(inbox.items) == list(range(30))


async def test_the_leader_looks_ever_more_rarely_while_a_publisher_stays_open(database: str, connect: Connect) -> None:
    slow = await connect(database)
    async with open_bus(database) as bus:
        watch, inbox = Watch(bus), collect(bus, name="mail")
        async with running(bus):
            transaction = slow.transaction()
            await transaction.start()
            await slow.execute(INSERT, "orders.placed", '{"n": 0}')
            await publish(bus, 1)
            await inbox.take(1)
            loop = asyncio.get_running_loop()
            times = [loop.time()]
            bus.telemetry.observe(lambda seen: times.append(loop.time()) if isinstance(seen, LeaderSlept) else None)
            # Naps of 20 ms that grow by a tenth each: by then they are longer than 60 ms.
            await watch.first(LeaderSlept, after=len(watch.of(LeaderSlept)) + 15)
            assert times[-1] - times[-2] > 2 * (times[2] - times[1])
            await transaction.commit()
            assert sorted(await inbox.take(2, timeout=5)) == [0, 1]


async def test_stopping_lets_the_running_handler_finish_and_gives_back_what_was_not_started(
    database: str, connect: Connect
) -> None:
    connection = await connect(database)
    async with open_bus(database, grace=10) as bus:
        started: Inbox[int] = Inbox()
        go_on = asyncio.Event()

        @bus.listener("orders.placed", name="mail", concurrency=1, batch_size=1)
        async def handle(event: dict[str, int]) -> None:
            started.put(event["n"])
            await go_on.wait()

        async def claimed(count: int) -> bool:
            return bool(await connection.fetchval("SELECT count(claim_token) = $1 FROM pgbus.deliveries", count))

        async with running(bus) as worker:
            await publish(bus, *range(5))
            await started.take(1)
            await eventually(lambda: claimed(2))
            worker.request_stop()
            await eventually(lambda: claimed(1))
            go_on.set()
            await worker.stop()
    assert started.items == [0]
    rows = await connection.fetch("SELECT * FROM pgbus.deliveries")
    assert sum(row["events"] for row in rows) == 4
    assert {(row["claim_token"], row["attempt"], row["crashes"]) for row in rows} == {(None, 1, 0)}
    assert await connection.fetchval("SELECT count(*) FROM pgbus.history WHERE outcome = 'done'") == 1
    assert await connection.fetchval("SELECT count(*) FROM pgbus.workers") == 0


async def test_a_handler_that_outlasts_the_grace_period_has_its_event_released(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database, grace=0) as bus:
        started: Inbox[int] = Inbox()

        @bus.listener("orders.placed", name="mail")
        async def handle(event: dict[str, int]) -> None:
            started.put(event["n"])
            await asyncio.Event().wait()

        async with running(bus):
            await publish(bus, 1)
            await started.take(1)
    [row] = await connection.fetch("SELECT * FROM pgbus.deliveries")
    assert (row["claim_token"], row["attempt"], row["crashes"]) == (None, 1, 0)
    assert await connection.fetchval("SELECT count(*) FROM pgbus.history") == 0


async def test_a_second_request_to_stop_does_not_wait_for_handlers(database: str) -> None:
    async with open_bus(database, grace=600) as bus:
        started: Inbox[int] = Inbox()

        @bus.listener("orders.placed", name="mail")
        async def handle(event: dict[str, int]) -> None:
            started.put(event["n"])
            await asyncio.Event().wait()

        async with running(bus) as worker:
            await publish(bus, 1)
            await started.take(1)
            worker.request_stop()
            worker.request_stop()
            async with asyncio.timeout(5):
                await worker.stop()


async def test_another_worker_leads_as_soon_as_the_leader_has_stopped(database: str) -> None:
    async with open_bus(database) as one, open_bus(database) as two:
        inbox = collect(two, name="mail")
        watch = Watch(two)
        async with running(two, only=[]) as follower:
            await watch.first(LeaderChanged)
            async with running(one):
                pass
            assert follower.leads
        async with running(one) as leader:
            await eventually(lambda: leader.leads)
            async with running(two) as follower:
                assert not follower.leads
                await leader.stop()
                await watch.first(LeaderChanged, after=2)
                await publish(two, 1)
                assert await inbox.take(1) == [1]


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
                    assert number in await inbox.take(number, timeout=3)
                    await until_idle(connection)


async def test_the_claims_of_a_worker_whose_session_has_ended_are_freed_at_once(
    database: str, connect: Connect
) -> None:
    connection, theirs = await connect(database), await connect(database)
    rows = Rows(connection)
    async with open_bus(database) as bus:
        watch, inbox = Watch(bus), collect(bus, name="mail")
        async with running(bus, only=["mail"]):
            pass
        listener_id = await connection.fetchval("SELECT id FROM pgbus.listeners")
        worker_id = await Rows(theirs).worker("doomed", "mail")
        await rows.event(5, payload={"n": 5})
        await rows.delivery(listener_id, 5, worker_id=worker_id)
        async with running(bus):
            await watch.first(LeaderSlept)
            assert inbox.items == []
            await theirs.close()
            assert await inbox.take(1, timeout=5) == [5]
            assert (await watch.first(ClaimsFreed)).claims == 1
            await until_idle(connection)


async def test_leases_are_extended_while_a_handler_runs(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database, lease=1) as bus:
        watch = Watch(bus)
        started: Inbox[int] = Inbox()
        go_on = asyncio.Event()

        @bus.listener("orders.placed", name="mail")
        async def handle(event: dict[str, int]) -> None:
            started.put(event["n"])
            await go_on.wait()

        async with running(bus):
            await publish(bus, 1)
            await started.take(1)
            first = await connection.fetchval("SELECT lease_expires_at FROM pgbus.deliveries")
            await eventually(
                lambda: connection.fetchval(
                    "SELECT now() > $1 AND lease_expires_at > now() FROM pgbus.deliveries", first
                )
            )
            go_on.set()
            await until_idle(connection)
    assert started.items == [1]
    assert watch.of(ClaimsFreed) == []
    assert watch.of(ClaimsLost) == []


async def test_a_worker_that_has_lost_its_claim_cannot_settle_it(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        watch = Watch(bus)
        attempts: Inbox[asyncio.Event] = Inbox()

        @bus.listener("orders.placed", name="mail")
        async def handle(event: dict[str, int]) -> None:
            go_on = asyncio.Event()
            attempts.put(go_on)
            await go_on.wait()

        async with running(bus):
            await publish(bus, 1)
            [first] = await attempts.take(1)
            await connection.execute("UPDATE pgbus.deliveries SET lease_expires_at = now() - interval '1 hour'")
            await watch.first(ClaimsFreed)
            _, second = await attempts.take(2)
            first.set()
            await watch.first(ClaimsLost)
            assert await connection.fetchval("SELECT count(*) FROM pgbus.history") == 0
            assert await connection.fetchval("SELECT claim_token IS NOT NULL FROM pgbus.deliveries")
            second.set()
            await until_idle(connection)
    assert await connection.fetchval("SELECT count(*) FROM pgbus.history") == 1


async def test_a_worker_of_no_listeners_still_leads(database: str) -> None:
    async with open_bus(database) as bus:
        watch = Watch(bus)
        async with running(bus):
            await publish(bus, 1, 2)
            assert (await watch.first(Sequenced)).events == 2


async def test_claims_start_small_and_grow_with_quick_handlers(database: str) -> None:
    async with open_bus(database) as bus:
        watch, inbox = Watch(bus), collect(bus, name="mail", concurrency=4)
        async with running(bus):
            pass
        await publish(bus, *range(6000))
        async with running(bus):
            await inbox.take(6000)
    sizes = [seen.events for seen in watch.of(Claimed)]
    assert sizes[0] <= 100
    assert max(sizes) > 5 * sizes[0]


async def test_a_batch_size_bounds_every_claim(database: str) -> None:
    async with open_bus(database) as bus:
        watch, inbox = Watch(bus), collect(bus, name="mail", batch_size=7)
        async with running(bus):
            await publish(bus, *range(100))
            await inbox.take(100)
    assert max(seen.events for seen in watch.of(Claimed)) <= 7


async def test_claims_smaller_than_the_concurrency_still_fill_every_slot(database: str) -> None:
    async with open_bus(database) as bus:
        started: Inbox[int] = Inbox()
        go_on = asyncio.Event()

        @bus.listener("orders.placed", name="mail", concurrency=4, batch_size=1)
        async def handle(event: dict[str, int]) -> None:
            started.put(event["n"])
            await go_on.wait()

        async with running(bus):
            await publish(bus, *range(4))
            assert sorted(await started.take(4, timeout=5)) == [0, 1, 2, 3]
            go_on.set()


async def test_a_connection_that_is_killed_while_claiming_does_not_end_the_delivery(
    database: str, connect: Connect
) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        inbox = collect(bus, name="mail")
        async with running(bus):
            await publish(bus, 1)
            await inbox.take(1)
            await until_idle(connection)
            # The pooled connections of claims, not the session.
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE query LIKE 'WITH active%' OR query LIKE 'WITH settled%'"
            )
            await publish(bus, 2)
            assert await inbox.take(2, timeout=5) == [1, 2]


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
            async with asyncio.timeout(10):
                await make_worker(bus).run()


async def test_a_lone_event_goes_to_an_idle_listener_without_a_claim_of_its_own(
    database: str, connect: Connect
) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        mail, ledger = collect(bus, name="mail"), collect(bus, name="ledger")
        watch = Watch(bus)
        async with running(bus):
            await watch.first(LeaderSlept)
            # To claim is to update: from now on nobody can.
            await connection.execute(
                "CREATE FUNCTION pgbus.no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
                "CREATE TRIGGER no BEFORE UPDATE ON pgbus.deliveries FOR EACH ROW EXECUTE FUNCTION pgbus.no()"
            )
            await publish(bus, 1)
            assert (await mail.take(1), await ledger.take(1)) == ([1], [1])
            await until_idle(connection)


async def test_an_event_that_is_handed_over_while_the_worker_drains_is_released_and_no_death_is_counted(
    database: str, connect: Connect
) -> None:
    connection, guard = await connect(database), await connect(database)
    async with open_bus(database) as bus:
        mail = collect(bus, name="mail")
        watch = Watch(bus)
        async with running(bus) as worker:
            await watch.first(LeaderSlept)
            async with guard.transaction():
                await guard.execute("LOCK TABLE pgbus.deliveries IN SHARE MODE")
                await publish(bus, 1)
                await eventually(lambda: connection.fetch("SELECT FROM pg_locks WHERE NOT granted"))
                worker.request_stop()
                await watch.first(ListenerDraining)
        assert mail.items == []
        [owed] = await connection.fetch("SELECT claim_token, available_at <= now(), crashes FROM pgbus.deliveries")
        assert tuple(owed) == (None, True, 0)
        async with running(bus):
            assert await mail.take(1) == [1]


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
    told = await connection.fetch("SELECT position, outcome, worker FROM pgbus.history ORDER BY position")
    assert [(row["outcome"], row["worker"]) for row in told] == [("skipped", "worker-1"), ("done", "worker-1")] * 2
    assert "mail skips" in caplog.text


async def test_idle_workers_share_the_first_events_of_a_listener(database: str) -> None:
    """Published at once they are one run: who finds it locked looks again, and nobody takes what he cannot begin."""
    async with AsyncExitStack() as stack:
        names = ["one", "two", "three", "four"]
        buses = [await stack.enter_async_context(open_bus(database, process_name=name)) for name in names]
        begun: Inbox[str] = Inbox()
        go_on = asyncio.Event()
        for bus in buses:

            @bus.listener("orders.placed", name="mail", concurrency=1)
            async def handle(event: dict[str, int], name: str = bus.config.process_name) -> None:
                begun.put(name)
                await go_on.wait()

            await stack.enter_async_context(running(bus))
        await publish(buses[0], *range(24))
        assert sorted(await begun.take(4)) == sorted(names)
        go_on.set()
        await begun.take(24)
