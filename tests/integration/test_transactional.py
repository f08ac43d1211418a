"""Transactional listeners: what the handler writes and the settlement of its event commit together, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

import pgbus
from pgbus.telemetry import ClaimsFreed, ClaimsLost, Settled
from tests.conftest import Connect
from tests.support import eventually
from tests.support.workers import QUICK_RETRY, Inbox, Watch, open_bus, running, until_idle

WRITE = "INSERT INTO ledger (n) VALUES ($1)"


@pytest.fixture
async def connection(database: str, connect: Connect) -> asyncpg.Connection:
    """A connection to the bus's database, which has a table `ledger` for handlers to write to."""
    opened = await connect(database)
    await opened.execute("CREATE TABLE ledger (n integer, backend integer DEFAULT pg_backend_pid())")
    return opened


async def ledger(connection: asyncpg.Connection) -> list[int]:
    return [row["n"] for row in await connection.fetch("SELECT n FROM ledger ORDER BY n")]


async def outcomes(connection: asyncpg.Connection) -> list[tuple[int, str]]:
    rows = await connection.fetch("SELECT attempt, outcome FROM pgbus.history ORDER BY position, attempt")
    return [tuple(row) for row in rows]


async def asyncpg_handler(event: dict[str, int], connection: asyncpg.Connection, context: pgbus.Context) -> None:
    await connection.execute(WRITE, event["n"])
    await _act(event, context)


async def async_session_handler(event: dict[str, int], session: AsyncSession, context: pgbus.Context) -> None:
    await session.execute(text("INSERT INTO ledger (n) VALUES (:n)"), {"n": event["n"]})
    await _act(event, context)


def session_handler(event: dict[str, int], session: Session, context: pgbus.Context) -> None:
    session.execute(text("INSERT INTO ledger (n) VALUES (:n)"), {"n": event["n"]})
    if event.get("fail", 0) >= context.attempt:
        raise ValueError("after the write")
    if "then" in event:
        context.publish_sync({"n": event["then"]}, topic="ledger.written")


async def _act(event: dict[str, int], context: pgbus.Context) -> None:
    if event.get("fail", 0) >= context.attempt:
        raise ValueError("after the write")
    if "then" in event:
        await context.publish({"n": event["then"]}, topic="ledger.written")


KINDS = pytest.mark.parametrize(
    "handler", [asyncpg_handler, async_session_handler, session_handler], ids=["asyncpg", "AsyncSession", "Session"]
)


@KINDS
async def test_writes_and_settlement_are_of_one_transaction(
    database: str, connection: asyncpg.Connection, handler: Callable[..., Any]
) -> None:
    async with open_bus(database) as bus:
        bus.listener("a.b", name="ledger", transactional=True)(handler)
        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            await until_idle(connection)
    assert await ledger(connection) == [1]
    assert await outcomes(connection) == [(1, "done")]
    assert await connection.fetchval("SELECT (SELECT xmin FROM ledger) = (SELECT xmin FROM pgbus.history)")


@KINDS
async def test_an_error_after_the_writes_rolls_them_back_and_the_event_is_tried_again(
    database: str, connection: asyncpg.Connection, handler: Callable[..., Any]
) -> None:
    async with open_bus(database) as bus:
        bus.listener("a.b", name="ledger", transactional=True, retry=QUICK_RETRY)(handler)
        async with running(bus):
            await bus.publish({"n": 1, "fail": 2}, topic="a.b")
            await bus.publish({"n": 2}, topic="a.b")
            await until_idle(connection)
    assert await ledger(connection) == [1, 2]
    assert sorted(await outcomes(connection)) == [(1, "done"), (1, "retry"), (2, "retry"), (3, "done")]


@KINDS
async def test_an_event_that_is_given_up_leaves_no_writes_behind(
    database: str, connection: asyncpg.Connection, handler: Callable[..., Any]
) -> None:
    async with open_bus(database) as bus:
        bus.listener("a.b", name="ledger", transactional=True, retry=QUICK_RETRY)(handler)
        async with running(bus):
            await bus.publish({"n": 1, "fail": 9}, topic="a.b")
            await until_idle(connection)
    assert await ledger(connection) == []
    assert await connection.fetchval("SELECT error FROM pgbus.dead") == "ValueError: after the write"


@KINDS
async def test_what_the_context_publishes_joins_the_transaction(
    database: str, connection: asyncpg.Connection, handler: Callable[..., Any]
) -> None:
    async with open_bus(database) as bus:
        inbox: Inbox[int] = Inbox()
        bus.listener("a.b", name="ledger", transactional=True, retry=QUICK_RETRY)(handler)

        @bus.listener("ledger.written", name="audit")
        async def audit(event: dict[str, int]) -> None:
            inbox.put(event["n"])

        async with running(bus):
            await bus.publish({"n": 1, "then": 7}, topic="a.b")
            await inbox.take(1)
            await until_idle(connection)
    assert inbox.items == [7]


async def test_what_a_failed_attempt_published_is_rolled_back_with_it(
    database: str, connection: asyncpg.Connection
) -> None:
    async with open_bus(database) as bus:
        inbox: Inbox[int] = Inbox()

        @bus.listener("a.b", name="ledger", transactional=True, retry=QUICK_RETRY)
        async def handle(event: dict[str, int], connection: asyncpg.Connection, context: pgbus.Context) -> None:
            await context.publish({"n": context.attempt}, topic="ledger.written")
            if context.attempt < 3:
                raise ValueError("after publishing")

        @bus.listener("ledger.written", name="audit")
        async def audit(event: dict[str, int]) -> None:
            inbox.put(event["n"])

        async with running(bus):
            await bus.publish({}, topic="a.b")
            await inbox.take(1)
            await until_idle(connection)
    assert inbox.items == [3]


async def test_what_a_failed_attempt_of_a_plain_handler_published_is_rolled_back_with_it(
    database: str, connection: asyncpg.Connection
) -> None:
    async with open_bus(database) as bus:
        inbox: Inbox[int] = Inbox()

        @bus.listener("a.b", name="ledger", transactional=True, retry=QUICK_RETRY)
        def handle(event: dict[str, int], session: Session, context: pgbus.Context) -> None:
            assert context.connection is session
            context.publish_sync({"n": context.attempt}, topic="ledger.written")
            if context.attempt < 3:
                raise ValueError("after publishing")

        @bus.listener("ledger.written", name="audit")
        async def audit(event: dict[str, int]) -> None:
            inbox.put(event["n"])

        async with running(bus):
            await bus.publish({}, topic="a.b")
            await inbox.take(1)
            await until_idle(connection)
    assert inbox.items == [3]


async def test_a_statement_that_fails_in_the_handlers_transaction_is_a_failed_attempt(
    database: str, connection: asyncpg.Connection
) -> None:
    async with open_bus(database) as bus:

        @bus.listener("a.b", name="ledger", transactional=True, retry=QUICK_RETRY)
        async def handle(event: dict[str, int], own: asyncpg.Connection, context: pgbus.Context) -> None:
            await own.execute(WRITE, 1)
            if context.attempt == 1:
                with contextlib.suppress(asyncpg.DivisionByZeroError):
                    await own.execute("SELECT 1 / 0")  # and so the transaction has failed

        async with running(bus):
            await bus.publish({}, topic="a.b")
            await until_idle(connection)
    assert await ledger(connection) == [1]
    assert await outcomes(connection) == [(1, "retry"), (2, "done")]


@pytest.mark.parametrize("kind", ["asyncpg", "AsyncSession", "Session"])
async def test_a_connection_killed_before_the_commit_leaves_neither_writes_nor_settlement(
    database: str, connection: asyncpg.Connection, kind: str
) -> None:
    async with open_bus(database) as bus:
        pids: Inbox[tuple[int, Callable[[], object]]] = Inbox()
        find_pid = "SELECT pg_backend_pid()"
        listener = bus.listener("a.b", name="ledger", transactional=True, retry=QUICK_RETRY)

        async def pause(pid: int) -> None:
            go_on = asyncio.Event()
            pids.put((pid, go_on.set))
            if len(pids.items) == 1:
                await go_on.wait()

        async def with_asyncpg(event: dict[str, int], own: asyncpg.Connection) -> None:
            await own.execute(WRITE, event["n"])
            await pause(await own.fetchval(find_pid))

        async def with_session(event: dict[str, int], session: AsyncSession) -> None:
            await session.execute(text(f"INSERT INTO ledger (n) VALUES ({event['n']})"))
            await pause(await session.scalar(text(find_pid)) or 0)

        def with_blocking(event: dict[str, int], session: Session) -> None:
            session.execute(text(f"INSERT INTO ledger (n) VALUES ({event['n']})"))
            go_on = threading.Event()
            pids.put((session.scalar(text(find_pid)) or 0, go_on.set))
            if len(pids.items) == 1:
                assert go_on.wait(20)

        handlers: dict[str, Callable[..., Any]] = {
            "asyncpg": with_asyncpg,
            "AsyncSession": with_session,
            "Session": with_blocking,
        }
        listener(handlers[kind])
        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            [(pid, go_on)] = await pids.take(1)
            assert await connection.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
            assert await ledger(connection) == []
            go_on()
            await pids.take(2)
            await until_idle(connection)
    assert await ledger(connection) == [1]
    assert await outcomes(connection) == [(1, "done")]


async def test_a_handler_does_not_run_when_its_claim_was_lost_before(
    database: str, connection: asyncpg.Connection
) -> None:
    async with open_bus(database) as bus:
        watch = Watch(bus)
        calls: Inbox[int] = Inbox()
        go_on = asyncio.Event()

        @bus.listener("a.b", name="ledger", transactional=True, concurrency=1, batch_size=5)
        async def handle(event: dict[str, int], own: asyncpg.Connection) -> None:
            calls.put(event["n"])
            await own.execute(WRITE, event["n"])
            await go_on.wait()

        async with running(bus):
            await bus.publish_many([{"n": 1}, {"n": 2}], topic="a.b")
            await calls.take(1)
            # The second one waits for the slot, claimed; someone else has taken it, and is done with it.
            deleted = await connection.execute(
                "DELETE FROM pgbus.deliveries AS d WHERE d.id = (SELECT max(x.id) FROM pgbus.deliveries AS x)"
            )
            assert deleted == "DELETE 1"
            go_on.set()
            await watch.first(ClaimsLost)
            await watch.until(lambda _: sum(seen.done for seen in watch.of(Settled)) == 1)
    assert calls.items == [1]
    assert await ledger(connection) == [1]


async def test_a_claim_is_not_freed_while_its_transaction_is_open(
    database: str, connection: asyncpg.Connection
) -> None:
    async with open_bus(database) as bus:
        watch = Watch(bus)
        calls: Inbox[int] = Inbox()
        go_on = asyncio.Event()

        @bus.listener("a.b", name="ledger", transactional=True)
        async def handle(event: dict[str, int], own: asyncpg.Connection) -> None:
            calls.put(event["n"])
            await own.execute(WRITE, event["n"])
            await go_on.wait()

        @bus.listener("other.event", name="other")
        async def other(event: dict[str, int]) -> None:
            calls.put(event["n"])
            await go_on.wait()

        async with running(bus):
            # As long a lease as a vanished host's, for the other listener's claim shows when claims are looked through.
            await bus.publish({"n": 1}, topic="a.b")
            await calls.take(1)
            await bus.publish({"n": 2}, topic="other.event")
            await calls.take(2)
            await connection.execute(
                "UPDATE pgbus.deliveries SET lease_expires_at = now() - interval '1 hour' "
                "WHERE id IN (SELECT id FROM pgbus.deliveries FOR UPDATE SKIP LOCKED)"
            )
            await watch.first(ClaimsFreed)
            assert sum(seen.claims for seen in watch.of(ClaimsFreed)) == 1
            go_on.set()
            await until_idle(connection)
    assert await ledger(connection) == [1]
    assert calls.items.count(1) == 1


async def test_an_expired_lease_of_an_open_transaction_does_not_make_it_commit_twice(
    database: str, connection: asyncpg.Connection, connect: Connect
) -> None:
    async with open_bus(database, lease=1) as bus, open_bus(database, lease=1) as rival:
        calls: Inbox[asyncio.Event] = Inbox()

        for each in (bus, rival):

            @each.listener("a.b", name="ledger", transactional=True)
            async def handle(event: dict[str, int], own: asyncpg.Connection) -> None:
                go_on = asyncio.Event()
                await own.execute(WRITE, event["n"])
                calls.put(go_on)
                await go_on.wait()

        async with running(bus), running(rival):
            await bus.publish({"n": 1}, topic="a.b")
            [go_on] = await calls.take(1)

            async def lease_is_over() -> bool:
                return bool(await connection.fetchval("SELECT lease_expires_at < now() FROM pgbus.deliveries"))

            await eventually(lease_is_over)
            go_on.set()
            await until_idle(connection)
    assert len(calls.items) == 1
    assert await ledger(connection) == [1]
    assert await outcomes(connection) == [(1, "done")]


async def test_stopping_without_grace_rolls_back_and_releases(database: str, connection: asyncpg.Connection) -> None:
    async with open_bus(database, grace=0) as bus:
        calls: Inbox[int] = Inbox()

        @bus.listener("a.b", name="ledger", transactional=True)
        async def handle(event: dict[str, int], own: asyncpg.Connection) -> None:
            await own.execute(WRITE, event["n"])
            calls.put(event["n"])
            await asyncio.Event().wait()

        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            await calls.take(1)
    assert await ledger(connection) == []
    [row] = await connection.fetch("SELECT claim_token, attempt FROM pgbus.deliveries")
    assert tuple(row) == (None, 1)


async def test_handlers_run_at_once_on_connections_of_their_own(database: str, connection: asyncpg.Connection) -> None:
    async with open_bus(database, pool_size=1) as bus:
        calls: Inbox[int] = Inbox()
        go_on = asyncio.Event()

        @bus.listener("a.b", name="ledger", transactional=True, concurrency=8)
        async def handle(event: dict[str, int], own: asyncpg.Connection) -> None:
            await own.execute(WRITE, event["n"])
            calls.put(event["n"])
            await go_on.wait()

        async with running(bus):
            await bus.publish_many([{"n": number} for number in range(8)], topic="a.b")
            await calls.take(8)
            go_on.set()
            await until_idle(connection)
    assert await connection.fetchval("SELECT count(DISTINCT backend) FROM ledger") == 8


@pytest.mark.parametrize("kind", ["asyncpg", "AsyncSession", "Session"])
async def test_a_batch_is_one_transaction(database: str, connection: asyncpg.Connection, kind: str) -> None:
    async with open_bus(database) as bus:

        async def with_asyncpg(events: list[dict[str, int]], own: asyncpg.Connection) -> None:
            await own.executemany(WRITE, [(event["n"],) for event in events])

        async def with_session(events: list[dict[str, int]], session: AsyncSession) -> None:
            await session.execute(text("INSERT INTO ledger (n) VALUES (:n)"), events)

        def with_blocking(events: list[dict[str, int]], session: Session) -> None:
            session.execute(text("INSERT INTO ledger (n) VALUES (:n)"), events)

        handlers: dict[str, Callable[..., Any]] = {
            "asyncpg": with_asyncpg,
            "AsyncSession": with_session,
            "Session": with_blocking,
        }
        bus.listener("a.b", name="ledger", transactional=True, batch=True)(handlers[kind])
        async with running(bus):
            await bus.publish_many([{"n": number} for number in range(50)], topic="a.b")
            await until_idle(connection)
    assert await ledger(connection) == list(range(50))
    assert await outcomes(connection) == [(1, "done")] * 50
    assert await connection.fetchval("SELECT count(DISTINCT xmin::text) FROM ledger") < 50


async def test_a_failed_batch_commits_every_other_event_exactly_once(
    database: str, connection: asyncpg.Connection
) -> None:
    async with open_bus(database) as bus:

        @bus.listener("a.b", name="ledger", transactional=True, batch=True, batch_size=20, retry=QUICK_RETRY)
        async def handle(events: list[dict[str, int]], own: asyncpg.Connection) -> None:
            await own.executemany(WRITE, [(event["n"],) for event in events])
            if any(event["n"] in (3, 11) for event in events):
                raise ValueError("no")

        async with running(bus):
            await bus.publish_many([{"n": number} for number in range(20)], topic="a.b")
            await until_idle(connection)
    good = [number for number in range(20) if number not in (3, 11)]
    assert await ledger(connection) == good
    done = await connection.fetch("SELECT (payload->>'n')::int FROM pgbus.event_history WHERE outcome = 'done'")
    assert sorted(row[0] for row in done) == good
    dead = await connection.fetch("SELECT (payload->>'n')::int, attempts FROM pgbus.dead ORDER BY 1")
    assert [tuple(row) for row in dead] == [(3, 3), (11, 3)]


async def test_an_undecodable_event_of_a_batch_is_dead_and_the_others_commit(
    database: str, connection: asyncpg.Connection
) -> None:
    async with open_bus(database) as bus:

        @bus.listener("a.b", name="ledger", transactional=True, batch=True, batch_size=20)
        async def handle(events: list[dict[str, int]], own: asyncpg.Connection) -> None:
            await own.executemany(WRITE, [(event["n"],) for event in events])

        async with running(bus):
            await bus.publish_many([{"n": 1}, {"n": "two"}, {"n": 3}], topic="a.b")
            await until_idle(connection)
    assert await ledger(connection) == [1, 3]
    assert await connection.fetchval("SELECT attempts FROM pgbus.dead") == 1
    assert sorted(outcome for _, outcome in await outcomes(connection)) == ["dead", "done", "done"]


async def test_an_ordered_transactional_listener_keeps_the_order_of_each_key(
    database: str, connection: asyncpg.Connection
) -> None:
    async with open_bus(database) as bus:
        await connection.execute("CREATE TABLE steps (id serial, key text, n integer)")

        @bus.listener("a.b", name="steps", transactional=True, ordered=True, retry=QUICK_RETRY)
        async def handle(event: dict[str, Any], own: asyncpg.Connection, context: pgbus.Context) -> None:
            await own.execute("INSERT INTO steps (key, n) VALUES ($1, $2)", event["key"], event["n"])
            if event["n"] % 5 == 0 and context.attempt == 1:
                raise ValueError("once more")

        async with running(bus):
            for number in range(20):
                for key in "abc":
                    await bus.publish({"key": key, "n": number}, topic="a.b", key=key)
            await until_idle(connection)
    for key in "abc":
        steps = await connection.fetch("SELECT n FROM steps WHERE key = $1 ORDER BY id", key)
        assert [row["n"] for row in steps] == list(range(20))


async def test_the_commit_of_a_handler_waits_for_the_disk_as_the_server_is_set_to(
    database: str, connection: asyncpg.Connection
) -> None:
    async with open_bus(database) as bus:
        inbox: Inbox[str] = Inbox()

        @bus.listener("a.b", name="ledger", transactional=True)
        async def handle(event: dict[str, int], own: asyncpg.Connection) -> None:
            inbox.put(await own.fetchval("SHOW synchronous_commit"))

        async with running(bus):
            await bus.publish({}, topic="a.b")
            assert await inbox.take(1) == ["on"]


@KINDS
@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError(), KeyboardInterrupt()], ids=repr)
async def test_errors_that_would_end_a_program_roll_back_and_are_retried(
    database: str, connection: asyncpg.Connection, handler: Callable[..., Any], error: BaseException
) -> None:
    async with open_bus(database) as bus:
        tried: Inbox[int] = Inbox()

        def fail(event: dict[str, int], attempt: int) -> None:
            tried.put(attempt)
            if attempt < 3:
                raise error

        async def with_asyncpg(event: dict[str, int], own: asyncpg.Connection, context: pgbus.Context) -> None:
            await own.execute(WRITE, event["n"])
            fail(event, context.attempt)

        async def with_session(event: dict[str, int], session: AsyncSession, context: pgbus.Context) -> None:
            await session.execute(text(f"INSERT INTO ledger (n) VALUES ({event['n']})"))
            fail(event, context.attempt)

        def with_blocking(event: dict[str, int], session: Session, context: pgbus.Context) -> None:
            session.execute(text(f"INSERT INTO ledger (n) VALUES ({event['n']})"))
            fail(event, context.attempt)

        handlers: dict[Any, Callable[..., Any]] = {
            asyncpg_handler: with_asyncpg,
            async_session_handler: with_session,
            session_handler: with_blocking,
        }
        bus.listener("a.b", name="ledger", transactional=True, retry=QUICK_RETRY)(handlers[handler])
        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            await until_idle(connection)
    assert tried.items == [1, 2, 3]
    assert await ledger(connection) == [1]


async def test_a_timeout_rolls_back(database: str, connection: asyncpg.Connection) -> None:
    async with open_bus(database) as bus:

        @bus.listener("a.b", name="ledger", transactional=True, retry=QUICK_RETRY, timeout=0.2)
        async def handle(event: dict[str, int], own: asyncpg.Connection, context: pgbus.Context) -> None:
            await own.execute(WRITE, event["n"])
            if context.attempt == 1:
                await own.execute("SELECT pg_sleep(30)")

        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            await until_idle(connection)
    assert await ledger(connection) == [1]
    assert await outcomes(connection) == [(1, "retry"), (2, "done")]


async def test_a_plain_handler_past_its_timeout_still_commits_once_or_not_at_all(
    database: str, connection: asyncpg.Connection
) -> None:
    async with open_bus(database) as bus:
        started: Inbox[int] = Inbox()
        go_on = threading.Event()
        watch = Watch(bus)

        @bus.listener("a.b", name="ledger", transactional=True, retry=QUICK_RETRY, timeout=1.0)
        def handle(event: dict[str, int], session: Session, context: pgbus.Context) -> None:
            session.execute(text(f"INSERT INTO ledger (n) VALUES ({event['n']})"))
            started.put(context.attempt)
            if context.attempt == 1 and event["n"] == 1:
                assert go_on.wait(20)

        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            await started.take(1)
            await bus.publish({"n": 2}, topic="a.b")
            await watch.until(lambda _: sum(seen.done for seen in watch.of(Settled)) == 1)
            go_on.set()
            await until_idle(connection)
    assert await ledger(connection) == [1, 2]
    done = await connection.fetchval("SELECT count(*) FROM pgbus.history WHERE outcome = 'done'")
    assert done == 2


async def test_a_thread_past_its_timeout_holds_up_no_other_settlement(
    database: str, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_bus(database) as bus:
        started: Inbox[int] = Inbox()
        go_on = threading.Event()
        watch = Watch(bus)

        @bus.listener("a.b", name="ledger", transactional=True, retry=QUICK_RETRY, timeout=3.0, concurrency=2)
        def handle(event: dict[str, int], session: Session, context: pgbus.Context) -> None:
            session.execute(text(f"INSERT INTO ledger (n) VALUES ({event['n']})"))
            started.put(event["n"])
            if event["n"] == 1 and context.attempt == 1:
                assert go_on.wait(30)
            if event["n"] == 2 and context.attempt == 1:
                raise ValueError("once")

        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            await started.take(1)
            await eventually(lambda: "ran past its timeout" in caplog.text)
            await bus.publish({"n": 2}, topic="a.b")
            await watch.until(lambda _: sum(seen.retried for seen in watch.of(Settled)) == 1)
            go_on.set()
            await until_idle(connection)
    assert await ledger(connection) == [1, 2]
    assert await outcomes(connection) == [(1, "retry"), (2, "done"), (1, "retry"), (2, "done")]


RAW_ENDS = ("ROLLBACK", "COMMIT", "ROLLBACK; BEGIN", "COMMIT AND CHAIN")


def own_end(kind: str, end: str) -> Callable[..., Any]:
    """A handler that writes, ends the transaction itself at its first attempt, and writes again."""

    async def asyncpg_kind(event: dict[str, int], connection: asyncpg.Connection, context: pgbus.Context) -> None:
        await connection.execute(WRITE, event["n"])
        if context.attempt == 1:
            await connection.execute(end)
            await connection.execute(WRITE, -1)

    async def async_session_kind(event: dict[str, int], session: AsyncSession, context: pgbus.Context) -> None:
        await session.execute(text("INSERT INTO ledger (n) VALUES (:n)"), {"n": event["n"]})
        if context.attempt == 1:
            for part in end.split("; "):
                await session.execute(text(part))

    def session_kind(event: dict[str, int], session: Session, context: pgbus.Context) -> None:
        session.execute(text("INSERT INTO ledger (n) VALUES (:n)"), {"n": event["n"]})
        if context.attempt == 1:
            session.execute(text(end))

    kinds: dict[str, Callable[..., Any]] = {
        "asyncpg": asyncpg_kind,
        "AsyncSession": async_session_kind,
        "Session": session_kind,
    }
    return kinds[kind]


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")
@pytest.mark.parametrize("end", RAW_ENDS)
@pytest.mark.parametrize("kind", ["asyncpg", "AsyncSession", "Session"])
async def test_a_handler_that_ends_its_transaction_has_failed(
    database: str, connection: asyncpg.Connection, kind: str, end: str
) -> None:
    async with open_bus(database) as bus:
        bus.listener("a.b", name="ledger", transactional=True, retry=QUICK_RETRY)(own_end(kind, end))
        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            await until_idle(connection)
    assert await outcomes(connection) == [(1, "retry"), (2, "done")]
    error = await connection.fetchval("SELECT error FROM pgbus.history WHERE outcome = 'retry'")
    assert error.startswith("HandlerTransactionError: the handler has ended the transaction that it was given: leave")
    committed = [1] if end.startswith("COMMIT") else []
    assert [n for n in await ledger(connection) if n > 0] == [*committed, 1]


@pytest.mark.parametrize("verb", ["commit", "rollback"])
@pytest.mark.parametrize("kind", ["AsyncSession", "Session"])
async def test_a_handler_that_ends_its_session_has_failed(
    database: str, connection: asyncpg.Connection, kind: str, verb: str
) -> None:
    async def async_session_kind(event: dict[str, int], session: AsyncSession, context: pgbus.Context) -> None:
        await session.execute(text("INSERT INTO ledger (n) VALUES (1)"))
        if context.attempt == 1:
            await getattr(session, verb)()

    def session_kind(event: dict[str, int], session: Session, context: pgbus.Context) -> None:
        session.execute(text("INSERT INTO ledger (n) VALUES (1)"))
        if context.attempt == 1:
            getattr(session, verb)()

    async with open_bus(database) as bus:
        handler: Callable[..., Any] = async_session_kind if kind == "AsyncSession" else session_kind
        bus.listener("a.b", name="ledger", transactional=True, retry=QUICK_RETRY)(handler)
        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            await until_idle(connection)
    assert await outcomes(connection) == [(1, "retry"), (2, "done")]
    error = await connection.fetchval("SELECT error FROM pgbus.history WHERE outcome = 'retry'")
    assert error.startswith("HandlerTransactionError: the handler has ended the transaction that it was given: leave")
