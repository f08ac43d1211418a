"""What becomes of an event that does not fit, and of what a handler raises."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any

import asyncpg
import pytest

import pgbus
from pgbus.telemetry import Settled
from tests.conftest import Connect
from tests.support import eventually
from tests.support.shapes import Animal, AsDataclass
from tests.support.tables import letters
from tests.support.waiting import PATIENCE
from tests.support.workers import Inbox, Watch, open_bus, running, until_idle


@pytest.mark.parametrize(
    "payload",
    ['{"n": "seven"}', "{}", "[]", "null", '{"n": 1.5}'],
    ids=["wrong type", "missing field", "a list", "null", "a fraction"],
)
async def test_a_payload_that_does_not_fit_is_dead_at_once_and_others_go_on(
    database: str, connect: Connect, payload: str
) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        inbox: Inbox[AsDataclass] = Inbox()

        @bus.listener(AsDataclass, name="mail")
        async def handle(event: AsDataclass) -> None:
            inbox.put(event)

        async with running(bus):
            await connection.execute(
                "INSERT INTO pgbus.outbox (topic, payload) VALUES ('shapes.dataclass', $1)", payload
            )
            await bus.publish(AsDataclass(2))
            assert await inbox.take(1) == [AsDataclass(2)]
            await until_idle(connection)
    [(name, error, attempts)] = await letters(connection)
    assert (name, attempts) == ("mail", 1)
    assert error.startswith("UnhandledEventError: the payload does not fit AsDataclass: ")


async def test_an_event_of_a_class_unknown_to_the_handler_is_dead_with_the_reason(
    database: str, connect: Connect
) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:

        @bus.listener("animals.*", name="mail")
        async def handle(event: Animal) -> None: ...

        async with running(bus):
            watch = Watch(bus)
            await bus.publish({"scales": 7}, topic="animals.fish")
            await watch.first(Settled)
    [(_, error, attempts)] = await letters(connection)
    assert attempts == 1
    assert "animals.fish" in error
    assert "animals.animal" in error


async def test_retry_after_sets_the_delay_and_dead_gives_up_at_once(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:

        @bus.listener("a.b", name="mail")
        async def handle(event: dict[str, int]) -> None:
            if event["n"] == 1:
                raise pgbus.Retry("the bank is closed", after=3600)
            raise pgbus.Dead("no such account")

        async with running(bus):
            watch = Watch(bus)
            await bus.publish_many([{"n": 1}, {"n": 2}], topic="a.b")
            await watch.until(lambda _: sum(seen.dead + seen.retried for seen in watch.of(Settled)) == 2)
    [row] = await connection.fetch("SELECT *, available_at - now() AS delay FROM pgbus.deliveries")
    assert (row["attempt"], row["last_error"]) == (2, "the bank is closed")
    assert 3500 < row["delay"].total_seconds() <= 3600
    assert await letters(connection) == [("mail", "no such account", 1)]


async def test_a_retry_asked_for_with_a_short_delay_comes_back_without_a_poll(database: str) -> None:
    async with open_bus(database) as bus:
        attempts: Inbox[int] = Inbox()

        @bus.listener("a.b", name="mail")
        async def handle(event: dict[str, int], context: pgbus.Context) -> None:
            attempts.put(context.attempt)
            if context.attempt < 5:
                raise pgbus.Retry(after=0.01)

        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            assert await attempts.take(5) == [1, 2, 3, 4, 5]


async def test_a_handler_past_its_timeout_fails_the_attempt(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        cancelled: Inbox[str] = Inbox()
        released = threading.Event()

        @bus.listener("a.b", name="waiting", timeout=0.05, retry=1)
        async def wait(event: dict[str, int]) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.put("cancelled")
                raise

        @bus.listener("a.b", name="blocking", timeout=0.05, retry=1)
        def block(event: dict[str, int]) -> None:
            released.wait(PATIENCE)

        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            await until_idle(connection)
            released.set()
    assert cancelled.items == ["cancelled"]
    found = sorted(await letters(connection))
    assert [name for name, _, _ in found] == ["blocking", "waiting"]
    assert {error for _, error, _ in found} == {"HandlerTimeoutError: the handler ran past its timeout of 0.05 seconds"}


async def test_a_timeout_error_of_the_handlers_own_is_not_taken_for_ours(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:

        @bus.listener("a.b", name="mail", timeout=30, retry=1)
        async def handle(event: dict[str, int]) -> None:
            raise TimeoutError("the bank did not answer")

        @bus.listener("a.b", name="mail in a thread", timeout=30, retry=1)
        def handle_plainly(event: dict[str, int]) -> None:
            raise TimeoutError("the bank did not answer")

        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            await until_idle(connection)
    assert {error for _, error, _ in await letters(connection)} == {"TimeoutError: the bank did not answer"}


@pytest.fixture
def unlogged(caplog: pytest.LogCaptureFixture) -> None:
    """No log of what xdist could not send between its processes: lone surrogates."""
    caplog.set_level(logging.CRITICAL + 1, logger="pgbus")


class _Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        asyncio.CancelledError(),
        GeneratorExit(),
        StopIteration(1),
        StopAsyncIteration(),
        MemoryError(),
        RecursionError("deep"),
        ValueError("a NUL \x00 and a lone surrogate \ud800"),
        ValueError("x" * 100_000),
        ExceptionGroup("many", [ValueError("\ud800"), KeyError("b")]),
        _Unspeakable(),
        asyncpg.PostgresConnectionError("the handler's own database is away"),
    ],
    ids=lambda error: type(error).__name__ + ("" if len(str(error.args)) < 10_000 else " that is long"),
)
@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
async def test_whatever_a_handler_raises_is_its_failure_and_not_the_workers(
    database: str, connect: Connect, error: BaseException, plain: bool, unlogged: None
) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        inbox: Inbox[int] = Inbox()

        def handle(event: dict[str, int]) -> None:
            if event["n"] == 1:
                raise error
            inbox.put(event["n"])

        async def handle_async(event: dict[str, int]) -> None:
            handle(event)

        retry = pgbus.RetryPolicy(max_attempts=2, base_delay=0.001)
        bus.listener("a.b", name="mail", retry=retry)(handle if plain else handle_async)
        async with running(bus):
            await bus.publish_many([{"n": number} for number in range(3)], topic="a.b")
            assert sorted(await inbox.take(2)) == [0, 2]
            await until_idle(connection)
            await bus.publish({"n": 3}, topic="a.b")
            assert sorted(await inbox.take(3)) == [0, 2, 3]
    [(_, text, attempts)] = await letters(connection)
    assert attempts == 2
    assert len(text) <= 4000


@pytest.mark.parametrize("reason", [None, 7, "\ud800\x00"], ids=["None", "a number", "what PostgreSQL cannot store"])
async def test_any_reason_for_a_dead_letter_is_kept_as_text(
    database: str, connect: Connect, reason: Any, unlogged: None
) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:

        @bus.listener("a.b", name="mail")
        async def handle(event: dict[str, int]) -> None:
            raise pgbus.Dead(reason)

        async with running(bus):
            await bus.publish({}, topic="a.b")
            await until_idle(connection)
    [(_, error, attempts)] = await letters(connection)
    assert attempts == 1
    assert error == {None: "None", 7: "7"}.get(reason, "\\ud800\\x00")


@pytest.mark.parametrize("after", ["soon", float("nan"), float("inf"), 1e300], ids=str)
async def test_a_delay_that_makes_no_sense_does_not_stop_the_worker(
    database: str, connect: Connect, after: Any
) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        inbox: Inbox[int] = Inbox()

        # Failures like any other are what it raises by these delays: the second attempt is as far off as this says.
        @bus.listener("a.b", name="mail", retry=pgbus.RetryPolicy(base_delay=600))
        async def handle(event: dict[str, int]) -> None:
            if event["n"] == 1:
                raise pgbus.Retry(after=after)
            inbox.put(event["n"])

        async with running(bus):
            watch = Watch(bus)
            await bus.publish_many([{"n": 1}, {"n": 2}], topic="a.b")
            assert await inbox.take(1) == [2]
            await watch.until(lambda _: sum(seen.retried for seen in watch.of(Settled)) == 1)
    [row] = await connection.fetch("SELECT attempt, claim_token FROM pgbus.deliveries")
    assert tuple(row) == (2, None)


async def test_giving_up_is_logged_once_with_the_event_and_the_error(
    database: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:

        @bus.listener("a.b", name="mail", retry=1)
        async def handle(event: dict[str, int]) -> None:
            raise ValueError("no")

        async with running(bus):
            event = await bus.publish({}, topic="a.b", key="adam")
            await until_idle(connection)
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.message.startswith("mail gave up on event ")
    assert record.message.endswith("after attempt 1: ValueError: no")
    assert record.exc_info
    fields = ("listener_name", "event_id", "topic", "key", "attempt", "correlation_id")
    id_ = str(event.event_id)
    assert [record.__dict__[name] for name in fields] == ["mail", id_, "a.b", "adam", 1, id_]


async def test_a_long_delay_is_logged_as_people_say_it(
    database: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:

        @bus.listener("a.b", name="mail")
        async def handle(event: dict[str, int]) -> None:
            raise pgbus.Retry(after=2519.0)

        async with running(bus):
            await bus.publish({}, topic="a.b")
            await eventually(lambda: connection.fetchval("SELECT count(*) = 1 FROM pgbus.attempts"))
    assert "attempt 1, and tries again in 42 min: " in caplog.text


async def test_many_failures_in_one_place_are_a_line_each_and_one_traceback(
    database: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:

        @bus.listener("a.b", name="mail", retry=1)
        async def handle(event: int) -> None:
            raise ValueError(f"no\n{event}")

        async with running(bus):
            await bus.publish_many(range(20), topic="a.b")
            await until_idle(connection)
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(records) == 20
    assert sum(bool(record.exc_info) for record in records) == 1
    assert not any("\n" in record.message for record in records)
    assert await connection.fetchval("SELECT count(DISTINCT traceback) FROM pgbus.dead_letters") == 20


async def test_history_tells_how_long_a_handler_took(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:

        @bus.listener("a.b", name="mail")
        def handle(event: dict[str, int]) -> None:
            time.sleep(0.05)  # what is measured

        async with running(bus):
            await bus.publish({}, topic="a.b")
            await until_idle(connection)
    assert 0.05 <= await connection.fetchval("SELECT duration FROM pgbus.attempts") < 30
