"""The database refuses for a while, or is set up in a way that nobody foresaw: no worker ends of it, nor any listener
of another one's fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg
import pytest

import pgbus
from pgbus import migrate
from pgbus.admin import Admin
from pgbus.bus import make_worker
from pgbus.database.statements import deliveries
from pgbus.database.statements.deliveries import Claimed
from pgbus.database.statements.rpc import ClaimedRequest
from pgbus.database.store import Store
from pgbus.embedded import EmbeddedPostgres
from pgbus.leader.sequencer import Sequencer
from pgbus.listeners.settlement import HeldClaim
from pgbus.schedules.rules import take_turn
from pgbus.telemetry import ClaimsFreed, PartFailed, SessionLost
from tests.conftest import Connect
from tests.support import eventually
from tests.support.programs import run_program
from tests.support.waiting import PATIENCE
from tests.support.workers import Inbox, Watch, open_bus, running, until_idle

SETTINGS = {
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "lock_timeout": "1ms",
    "statement_timeout": "20ms",
    "idle_session_timeout": "200ms",
    "search_path": "nowhere",
    "datestyle": "SQL, DMY",
    "intervalstyle": "iso_8601",
    "timezone": "Asia/Kathmandu",
    "bytea_output": "escape",
    "enable_indexscan": "off",
    "enable_nestloop": "off",
}


@pytest.fixture
async def role(database: str, connect: Connect) -> AsyncIterator[str]:
    """A role of the test's own that may do everything and log in, dropped afterwards."""
    connection = await connect(database)
    name = f"t{uuid.uuid4().hex[:12]}"
    await connection.execute(f"CREATE ROLE {name} LOGIN SUPERUSER")
    yield name
    # Also after a test that failed: what it granted would keep the role.
    await connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def dsn_as(dsn: str, role: str) -> str:
    parts = urlsplit(dsn)
    return urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}"))


def failing_once(function: Callable[..., Any]) -> Callable[..., Any]:
    faults = [TypeError("a fault of code")]

    def call(*args: Any, **kwargs: Any) -> Any:
        if faults:
            raise faults.pop()
        return function(*args, **kwargs)

    return call


async def test_workers_do_not_rest_on_what_their_role_is_set_to(
    database: str, role: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    connection = await connect(database)
    settings = dict(SETTINGS)
    if connection.get_server_version() >= (17,):
        settings["transaction_timeout"] = "20ms"
    for name, value in settings.items():
        await connection.execute(f"ALTER ROLE {role} SET {name} = '{value}'")
    async with contextlib.AsyncExitStack() as stack:
        publisher = await stack.enter_async_context(open_bus(database))
        inbox: Inbox[int] = Inbox()
        workers = []
        for number in range(3):
            bus = await stack.enter_async_context(open_bus(dsn_as(database, role), process_name=f"w{number}"))

            @bus.listener("a.b", name="shared", concurrency=3)
            async def shared(event: int) -> None:
                inbox.put(event)

            @bus.listener("a.b", name="in order", ordered=True)
            async def in_order(event: int) -> None:
                inbox.put(event)

            @bus.procedure("math.double")
            async def double(n: int) -> int:
                return 2 * n

            workers.append(await stack.enter_async_context(running(bus)))
        for number in range(100):
            await publisher.publish(number, topic="a.b", key=str(number % 7))
        await until_idle(connection)
        caller = await stack.enter_async_context(open_bus(dsn_as(database, role)))
        assert await caller.call("math.double", {"n": 2}) == 4
    assert sorted(inbox.items) == sorted([*range(100), *range(100)])
    assert [record for record in caplog.records if "trying" in record.getMessage()] == []


async def test_a_publish_on_a_read_only_connection_is_tried_on_another_or_refused(
    database: str, role: str, connect: Connect
) -> None:
    """As after a failover, in which a connection still leads to the old primary."""
    connection = await connect(database)
    await connection.execute(f"ALTER ROLE {role} SET default_transaction_read_only = on")
    async with open_bus(dsn_as(database, role)) as bus:
        with pytest.raises(pgbus.DatabaseUnreachableError, match="read-only") as raised:
            await bus.publish({}, topic="a.b")
        assert not isinstance(raised.value, pgbus.OutcomeUnknownError)
        await bus.client.lazy_load_now()  # opens a connection that only reads
        await connection.execute(f"ALTER ROLE {role} RESET default_transaction_read_only")
        await bus.publish({}, topic="a.b")
    assert await connection.fetchval("SELECT count(*) FROM pgbus.outbox") == 1


async def test_logins_that_are_refused_for_a_while_end_no_worker(database: str, role: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(dsn_as(database, role)) as bus, open_bus(database) as publisher:
        inbox: Inbox[int] = Inbox()
        watch = Watch(bus)

        @bus.listener("a.b", name="mail")
        async def handle(event: int) -> None:
            inbox.put(event)

        async with running(bus):
            await publisher.publish(1, topic="a.b")
            await inbox.take(1)
            await connection.execute(f"ALTER ROLE {role} NOLOGIN")
            await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", role)
            await watch.first(SessionLost)
            await publisher.publish(2, topic="a.b")
            begun_at = await connection.fetchval("SELECT clock_timestamp()")
            passed = "SELECT clock_timestamp() > $1::timestamptz + interval '3 seconds'"
            await eventually(lambda: connection.fetchval(passed, begun_at))
            await connection.execute(f"ALTER ROLE {role} LOGIN")
            assert await inbox.take(2) == [1, 2]
            await until_idle(connection)
    assert len(watch.of(SessionLost)) == 1, "it is told once"


async def test_a_role_that_may_have_no_more_connections_ends_no_worker(
    database: str, role: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    connection = await connect(database)
    await connection.execute(f"ALTER ROLE {role} NOSUPERUSER")
    await connection.execute(f"GRANT ALL ON SCHEMA pgbus TO {role}")
    for kind in ("TABLES", "SEQUENCES", "FUNCTIONS"):
        await connection.execute(f"GRANT ALL ON ALL {kind} IN SCHEMA pgbus TO {role}")
    async with open_bus(dsn_as(database, role), pool_size=2) as bus, open_bus(database) as publisher:
        inbox: Inbox[int] = Inbox()

        @bus.listener("a.b", name="mail")
        async def handle(event: int) -> None:
            inbox.put(event)

        async with running(bus):
            await publisher.publish(1, topic="a.b")
            await inbox.take(1)
            await connection.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
            await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", role)
            await eventually(lambda: "lost the connection to the database" in caplog.text)
            await publisher.publish(2, topic="a.b")
            await connection.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1")
            assert await inbox.take(2) == [1, 2]
            await until_idle(connection)


async def test_a_worker_waits_until_a_standby_is_promoted(
    own_server: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    dsn = own_server.dsn()
    migrate.upgrade(dsn)
    async with open_bus(dsn) as bus:
        inbox: Inbox[int] = Inbox()
        watch = Watch(bus)

        @bus.listener("a.b", name="mail")
        async def handle(event: int) -> None:
            inbox.put(event)

        async with running(bus):
            await bus.publish(1, topic="a.b")
            await inbox.take(1)
            (own_server.datadir / "standby.signal").touch()
            await asyncio.to_thread(own_server.restart)
            await watch.first(SessionLost)
            connection = await asyncpg.connect(dsn)
            assert await connection.fetchval("SELECT pg_is_in_recovery()")
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await connection.execute("LISTEN nothing")
            # It comes to the standby again and again, and is refused.
            begun_at = await connection.fetchval("SELECT clock_timestamp()")
            passed = "SELECT clock_timestamp() > $1::timestamptz + interval '2 seconds'"
            await eventually(lambda: connection.fetchval(passed, begun_at))
            await connection.execute("SELECT pg_promote()")
            await connection.close()
            await bus.publish(2, topic="a.b")
            assert await inbox.take(2) == [1, 2]
    assert caplog.text.count("lost the connection to the database") == 1


@pytest.mark.parametrize("is_batch", [False, True])
async def test_a_restart_in_which_a_handler_cannot_publish_costs_its_event_no_attempt(
    own_server: EmbeddedPostgres, is_batch: bool
) -> None:
    migrate.upgrade(own_server.dsn())
    async with open_bus(own_server.dsn()) as bus:
        begun, is_down = asyncio.Event(), asyncio.Event()
        done: Inbox[int] = Inbox()

        async def handle(event: Any, context: pgbus.Context) -> None:
            begun.set()
            await is_down.wait()
            await bus.publish(1, topic="x.y")
            done.put(context.attempt)

        if is_batch:

            @bus.listener("a.b", name="mail", retry=1, batch=True)
            async def handle_all(events: list[int], context: pgbus.Context) -> None:
                await handle(events, context)
        else:

            @bus.listener("a.b", name="mail", retry=1)
            async def handle_one(event: int, context: pgbus.Context) -> None:
                await handle(event, context)

        watch = Watch(bus)
        async with running(bus):
            await bus.publish(1, topic="a.b")
            await begun.wait()
            await asyncio.to_thread(own_server.stop)
            await watch.first(SessionLost)
            is_down.set()
            await asyncio.to_thread(own_server.start)
            assert await done.take(1) == [1]
            connection = await asyncpg.connect(own_server.dsn())
            await until_idle(connection)
            assert await connection.fetchval("SELECT array_agg(outcome) FROM pgbus.attempts") == ["done"]
            await connection.close()


async def test_a_bug_in_one_listener_ends_no_other_and_is_a_crash_for_its_claims(
    bus: pgbus.Bus, database: str, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pgbus.aio.backoff.RESTART_PAUSE", 0.01)
    claim = deliveries.claim
    faults = [TypeError("a fault of code")]

    async def claim_and_fail(store: Store, *values: Any, **named: Any) -> Claimed:
        claimed = await claim(store, *values, **named)
        if faults and claimed.claims and claimed.claims[0].events[0].topic == "a.faulty":
            raise faults.pop()
        return claimed

    monkeypatch.setattr(deliveries, "claim", claim_and_fail)
    connection = await connect(database)
    inbox: Inbox[int] = Inbox()
    watch = Watch(bus)

    @bus.listener("a.good", name="good")
    async def good(event: int) -> None:
        inbox.put(event)

    @bus.listener("a.faulty", name="bad", ordered=True, on_poison="block")  # whose events are never handed over
    async def bad(event: int) -> None:
        inbox.put(100 + await connection.fetchval("SELECT crashes FROM pgbus.deliveries"))

    async with running(bus):
        await bus.publish(1, topic="a.faulty")
        assert await watch.first(PartFailed) == PartFailed("listener bad", "a fault of code")
        await bus.publish(2, topic="a.good")
        assert await inbox.take(2) in ([2, 101], [101, 2])
        await until_idle(connection)
    assert len(watch.of(ClaimsFreed)) == 1
    assert "listener bad failed, and restarts" in caplog.text


async def test_a_fault_of_code_in_what_takes_calls_ends_no_worker(
    bus: pgbus.Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgbus.aio.backoff.RESTART_PAUSE", 0.01)
    monkeypatch.setattr("pgbus.database.statements.rpc.ClaimedRequest", failing_once(ClaimedRequest))
    watch = Watch(bus)

    @bus.procedure("math.double")
    async def double(n: int) -> int:
        return 2 * n

    async with running(bus):
        with pytest.raises(pgbus.WorkerLost):  # taken, and never begun
            await bus.call("math.double", {"n": 1})
        assert watch.of(PartFailed) == [PartFailed("calls", "a fault of code")]
        assert await bus.call("math.double", {"n": 2}) == 4


async def test_a_fault_of_code_in_what_runs_schedules_ends_no_worker(
    bus: pgbus.Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgbus.aio.backoff.RESTART_PAUSE", 0.01)
    monkeypatch.setattr("pgbus.schedules.claimer.take_turn", failing_once(take_turn))
    watch = Watch(bus)
    ran = asyncio.Event()

    @bus.client.every(milliseconds=200)
    async def tick() -> None:
        ran.set()

    async with running(bus):
        await watch.first(PartFailed)
        async with asyncio.timeout(PATIENCE):
            await ran.wait()
    assert watch.of(PartFailed) == [PartFailed("schedules", "a fault of code")]


async def test_a_fault_of_code_in_leading_ends_no_worker(bus: pgbus.Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgbus.aio.backoff.RESTART_PAUSE", 0.01)
    monkeypatch.setattr("pgbus.leader.leader.Sequencer", failing_once(Sequencer))
    inbox: Inbox[int] = Inbox()
    watch = Watch(bus)

    @bus.listener("a.b", name="mail")
    async def mail(event: int) -> None:
        inbox.put(event)

    async with running(bus):
        assert await watch.first(PartFailed) == PartFailed("leader", "a fault of code")
        await bus.publish(1, topic="a.b")
        assert await inbox.take(1) == [1]


async def test_status_shows_what_has_failed_and_waits_to_begin_again(
    bus: pgbus.Bus, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgbus.aio.backoff.RESTART_PAUSE", 3600.0)
    monkeypatch.setattr("pgbus.listeners.claimer.HeldClaim", failing_once(HeldClaim))

    @bus.listener("a.faulty", name="bad", ordered=True, on_poison="block")  # whose events are never handed over
    async def bad(event: int) -> None: ...

    async with running(bus), Admin.connect(bus.config) as admin:
        await bus.publish(1, topic="a.faulty")

        async def has_failed() -> bool:
            return any(worker.failures for worker in await admin.workers())

        await eventually(has_failed)
        assert [worker.failures for worker in await admin.workers()] == [{"listener bad": "TypeError: a fault of code"}]
        shown = await asyncio.to_thread(run_program, "status", cwd=Path.cwd(), environ={"PGBUS_DSN": database})
    assert re.search(r"^bad +failed ", shown.stdout, re.MULTILINE)
    assert re.search(r"listener bad failed in \S+, .*: TypeError: a fault of code", " ".join(shown.stdout.split()))


async def test_a_worker_ended_by_an_error_is_dead_for_its_unsettled_claims(
    database: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await connect(database)
    async with open_bus(database, poll_interval=0.05) as bus, open_bus(database) as other:

        @bus.listener("a.b", name="mail")
        async def handle(event: int) -> None:
            pass

        claimed = asyncio.Event()

        async def fail(store: Store, *, worker_id: int) -> dict[int, UUID]:
            await claimed.wait()
            raise TypeError(f"a fault of code in worker {worker_id}")

        worker = make_worker(bus)
        task = asyncio.create_task(worker.run())
        await worker.ready.wait()
        monkeypatch.setattr(deliveries, "find_own_claims", fail)
        # A claim of which the worker knows nothing, as when it could not read the answer.
        await connection.execute(
            "INSERT INTO pgbus.deliveries (listener_id, first, last, events, claim_token, worker_id, lease_expires_at)"
            " SELECT l.id, 1, 1, 1, gen_random_uuid(), w.id, now() + interval '1 hour'"
            " FROM pgbus.listeners AS l, pgbus.workers AS w"
        )
        claimed.set()
        with pytest.raises(TypeError, match="a fault of code in worker"):
            await task
        monkeypatch.undo()
        watch = Watch(other)
        async with running(other):
            await watch.first(ClaimsFreed)
            assert await connection.fetchval("SELECT crashes FROM pgbus.deliveries") == 1
