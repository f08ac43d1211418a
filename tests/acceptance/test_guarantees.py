"""What is promised of events and calls, whatever happens to the processes."""

from __future__ import annotations

import json
import signal

import pytest

from pgbus.leader import maintenance
from tests.conftest import Connect
from tests.support import eventually
from tests.support.programs import PROGRAM
from tests.support.services import Services
from tests.support.waiting import PATIENCE
from tests.support.workers import Inbox, open_bus, running

STORE = """
import pgbus


class StoreApi(pgbus.Api):
    page_viewed = pgbus.Event(parameters=("uuid", "url"))

    class Meta:
        name = "store"


bus = pgbus.create()
bus.client.register_api(StoreApi())
"""


async def test_a_view_that_is_delivered_twice_is_one_row(services: Services) -> None:
    """S12: the first time, the worker is killed after its handler has written and before anybody knows."""
    await services.connection.execute("CREATE TABLE page_views (uuid text PRIMARY KEY, url text, times integer)")
    store = services.write("store", STORE)
    dashboard = services.write(
        "dashboard",
        """
        import os
        import signal
        import psycopg
        import pgbus

        bus = pgbus.create()

        def handle_page_view(event, uuid, url):
            with psycopg.connect(os.environ["PGBUS_DSN"]) as connection:
                [[times]] = connection.execute(
                    "INSERT INTO page_views VALUES (%s, %s, 1) "
                    "ON CONFLICT (uuid) DO UPDATE SET url = EXCLUDED.url, times = page_views.times + 1 RETURNING times",
                    (uuid, url),
                )
            if times == 1:
                os.kill(os.getpid(), signal.SIGKILL)

        bus.store.page_viewed.listen(handle_page_view, listener_name="views", bus_options={"since": "0"})
        """,
    )
    async with services.process(PROGRAM, "run", cwd=dashboard) as killed:
        services.run_code(store, "from bus import bus\nbus.store.page_viewed.fire(uuid='1', url='/')")
        assert await killed.ends() == -signal.SIGKILL
    async with services.worker(dashboard):
        await services.settled()
    rows = await services.connection.fetch("SELECT * FROM page_views")
    assert [tuple(row) for row in rows] == [("1", "/", 2)]
    assert await services.dead_errors() == []


async def test_calls_run_side_by_side_and_a_procedure_calls_its_own_api(services: Services) -> None:
    """N5: neither of two calls returns before the other one has begun."""
    slow = services.write(
        "slow",
        """
        import asyncio
        import threading
        import pgbus

        meeting, plain_meeting = asyncio.Barrier(2), threading.Barrier(2)


        class SlowApi(pgbus.Api):
            class Meta:
                name = "slow"

            async def meet(self) -> str:
                await meeting.wait()
                return "met"

            def meet_in_threads(self) -> str:
                plain_meeting.wait(60)
                return "met"

            def double(self, number: int) -> int:
                return 2 * number

            def quadruple(self, number: int) -> int:
                return bus.slow.double(number=bus.slow.double(number=number))


        bus = pgbus.create()
        bus.client.register_api(SlowApi())
        """,
    )
    code = """
    from concurrent.futures import ThreadPoolExecutor
    from bus import bus
    patient = {"timeout": 60}
    with ThreadPoolExecutor(4) as threads:
        paths = 2 * (bus.slow.meet, bus.slow.meet_in_threads)
        calls = [threads.submit(path.call, bus_options=patient) for path in paths]
        print(*(call.result() for call in calls))
    print(bus.slow.quadruple.call(number=3, bus_options=patient))
    """
    async with services.worker(slow):
        assert services.run_code(slow, code).split() == ["met"] * 4 + ["12"]


async def test_a_short_retention_keeps_events_until_every_listener_had_them(
    database: str, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """N7"""
    # What a leader does once a minute, all the time.
    monkeypatch.setattr(maintenance, "CLAIMS_INTERVAL", 0.02)
    monkeypatch.setattr(maintenance, "CHORES_INTERVAL", 0.02)
    connection = await connect(database)
    quick: Inbox[int] = Inbox()
    slow: Inbox[int] = Inbox()
    async with open_bus(database, retention=1, partition_period=1) as bus:
        bus.client.listen_for_event("shop", "sold", lambda number: quick.put(number), "quick")
        bus.client.listen_for_event("shop", "sold", lambda number: slow.put(number), "slow")
        async with running(bus):
            pass  # now both are known

        async def log_has_moved_on() -> bool:
            await bus.publish({}, topic="shop.opened")
            return bool(await connection.fetchval("SELECT max(position) - min(position) > 900000000 FROM pgbus.events"))

        async with running(bus, only=["quick"]):
            await bus.publish_many([{"number": number} for number in range(1000)], topic="shop.sold")
            await quick.take(1000, timeout=PATIENCE)
            await eventually(log_has_moved_on, PATIENCE)
            await eventually(lambda: "retention keeps partition 0" in caplog.text, PATIENCE)
        assert slow.items == []
        async with running(bus):
            assert sorted(await slow.take(1000, timeout=PATIENCE)) == list(range(1000))
            # And not any longer.
            gone = "SELECT NOT EXISTS (SELECT FROM pgbus.partitions WHERE number = 0)"
            await eventually(lambda: connection.fetchval(gone), PATIENCE)
        assert (len(quick.items), len(slow.items)) == (1000, 1000)


async def test_a_handler_that_takes_longer_than_its_lease_runs_once(services: Services) -> None:
    """N8: though another worker would take over the event if the lease ran out."""
    await services.connection.execute("CREATE TABLE started (at timestamptz DEFAULT clock_timestamp(), pid integer)")
    directory = services.write(
        "slow",
        """
        import os
        import psycopg
        import pgbus

        bus = pgbus.create()

        def handle(event):
            with psycopg.connect(os.environ["PGBUS_DSN"], autocommit=True) as connection:
                connection.execute("INSERT INTO started (pid) VALUES (%s)", (os.getpid(),))
                connection.execute("SELECT pg_advisory_lock_shared(4711)")

        bus.shop.sold.listen(handle, listener_name="slow")
        """,
    )
    await services.connection.execute("SELECT pg_advisory_lock(4711)")
    quick = {"PGBUS_LEASE": "6", "PGBUS_POLL_INTERVAL": "0.1"}
    async with services.worker(directory, **quick), services.worker(directory, **quick):
        services.run_code(directory, "from bus import bus\nbus.publish_sync({}, topic='shop.sold')")
        # For longer than the lease was when the event was claimed.
        long_ago = "SELECT clock_timestamp() - min(at) > interval '8 seconds' FROM started"
        await eventually(lambda: services.connection.fetchval(long_ago), PATIENCE)
        await services.connection.execute("SELECT pg_advisory_unlock(4711)")
        await services.settled()
    assert await services.connection.fetchval("SELECT count(*) FROM started") == 1
    outcomes = await services.connection.fetch("SELECT attempt, outcome FROM pgbus.event_history")
    assert [tuple(row) for row in outcomes] == [(1, "done")]


async def test_two_buses_in_one_process_are_independent(services: Services, empty_database: str) -> None:
    """N12: each has its database, its APIs, its listeners and its worker."""
    directory = services.write(
        "both",
        """
        import asyncio
        import sys
        import pgbus
        from pgbus import migrate

        class Api(pgbus.Api):
            changed = pgbus.Event(parameters=("what",))

            class Meta:
                name = "things"

            def whose(self) -> str:
                return self.owner

        def make(dsn, owner):
            bus = pgbus.create(dsn)
            api = Api()
            api.owner = owner
            bus.client.register_api(api)
            bus.things.changed.listen(lambda what: heard[owner].set_result(what), listener_name="changes")
            return bus

        async def main():
            for owner in ("one", "two"):
                heard[owner] = asyncio.get_running_loop().create_future()
            buses = [make(dsn, owner) for dsn, owner in zip(sys.argv[1:], ("one", "two"))]
            assert buses[0].client is not buses[1].client
            for bus in buses:
                await bus.client.start_worker()
            for number, bus in enumerate(buses):
                await bus.things.changed.fire_async(what=number)
                print(await bus.things.whose.call_async(bus_options={"timeout": 60}))
            print(await heard["one"], await heard["two"])
            await buses[0].client.stop_worker()
            print(await buses[1].things.whose.call_async(bus_options={"timeout": 60}))
            await buses[1].client.stop_worker()
            for bus in buses:
                await bus.close()

        heard = {}
        migrate.upgrade(sys.argv[2])
        asyncio.run(main())
        """,
    )
    done = services.python(directory, "bus.py", services.dsn, empty_database)
    assert (done.returncode, done.stdout.split()) == (0, ["one", "two", "0", "1", "two"]), done.stderr


async def test_committed_events_survive_their_process_and_others_are_never_heard(
    services: Services,
) -> None:
    """N19"""
    store = services.write("store", STORE)
    code = """
    import os, signal
    import psycopg
    from bus import bus

    connection = psycopg.connect(os.environ["PGBUS_DSN"])
    bus.store.page_viewed.fire(uuid="1", url="rolled back", using=connection)
    connection.rollback()
    bus.store.page_viewed.fire(uuid="2", url="committed", using=connection)
    connection.commit()
    os.kill(os.getpid(), signal.SIGKILL)
    """
    dashboard = services.write(
        "dashboard",
        """
        import pgbus
        bus = pgbus.create()
        bus.store.page_viewed.listen(
            lambda uuid, url: print(url, flush=True), listener_name="print", bus_options={"since": "0"}
        )
        """,
    )
    assert services.execute(store, code).returncode == -signal.SIGKILL
    async with services.worker(dashboard) as worker:
        assert await worker.line() == "committed"
        await services.settled()
    assert worker.out == ["committed"]


async def test_an_event_whose_handler_always_fails_becomes_a_dead_letter_to_retry(
    services: Services,
) -> None:
    """N20: with growing pauses; then the event is a dead letter, until an operator has it delivered again."""
    store = services.write("store", STORE)
    mailer = services.write(
        "mailer",
        """
        import os
        import pgbus

        bus = pgbus.create(service_name="mailer")

        def send(event, uuid, url):
            if "BROKEN" in os.environ:
                raise ConnectionError("no mail today")
            print(f"sent {url}", flush=True)

        policy = pgbus.RetryPolicy(max_attempts=3, base_delay=0.2, jitter=0.0)
        bus.store.page_viewed.listen(send, listener_name="send", bus_options={"retry": policy})
        """,
    )
    async with services.worker(mailer, BROKEN="1"):
        services.run_code(store, "from bus import bus\nbus.store.page_viewed.fire(uuid='1', url='/')")
        await eventually(services.dead_errors, PATIENCE)
    rows = await services.connection.fetch(
        """SELECT outcome, extract(epoch FROM started_at - lag(started_at) OVER (ORDER BY attempt))::float AS pause
           FROM pgbus.event_history ORDER BY attempt"""
    )
    assert [row["outcome"] for row in rows] == ["retry", "retry", "dead"]
    # The two instants are told by the clock of the worker, as it was at each claim.
    assert rows[1]["pause"] >= 0.19
    assert rows[2]["pause"] >= 0.39
    [listed] = map(json.loads, services.pgbus(mailer, "dead", "list", "--json").splitlines())
    assert (listed["listener_name"], listed["error"]) == ("mailer-send", "ConnectionError: no mail today")
    assert "retried 1 dead letter" in services.pgbus(
        mailer, "dead", "retry", "--all", "--yes", "--listener", "mailer-send"
    )
    async with services.worker(mailer) as mended:
        assert await mended.line() == "sent /"
        await services.settled()
    assert "no dead letters" in services.pgbus(mailer, "dead", "list")
