"""Handlers of every kind, what they are given, and what becomes of what they raise."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import attrs
import msgspec
import pydantic
import pytest

import pgbus
from pgbus.telemetry import Settled
from tests.conftest import Connect
from tests.support.workers import QUICK_RETRY, Inbox, Watch, open_bus, running, until_idle


@pgbus.event("shapes.dataclass")
@dataclass
class AsDataclass:
    n: int


@pgbus.event("shapes.struct")
class AsStruct(msgspec.Struct):
    n: int


@pgbus.event("shapes.attrs")
@attrs.define
class AsAttrs:
    n: int


@pgbus.event("shapes.pydantic")
class AsModel(pydantic.BaseModel):
    n: int


@pgbus.event("animals.animal")
@dataclass
class Animal:
    name: str


@pgbus.event("animals.dog")
@dataclass
class Dog(Animal):
    trick: str = ""


async def letters(connection: asyncpg.Connection) -> list[tuple[str, str, int]]:
    rows = await connection.fetch("SELECT listener_name, error, attempts FROM pgbus.dead ORDER BY id")
    return [tuple(row) for row in rows]


# ------------------------------------------------------------------------------------------------------ what is called


@pytest.mark.parametrize("kind", [AsDataclass, AsStruct, AsAttrs, AsModel])
async def test_an_event_arrives_as_an_instance_of_its_class(database: str, kind: Any) -> None:
    async with open_bus(database) as bus:
        inbox: Inbox[Any] = Inbox()

        async def handle(event: Any) -> None:
            inbox.put(event)

        handle.__annotations__["event"] = kind
        bus.listener(kind, name="mail")(handle)
        async with running(bus):
            await bus.publish(kind(n=7))
            assert await inbox.take(1) == [kind(n=7)]


async def test_the_annotation_alone_says_what_to_listen_to(database: str) -> None:
    async with open_bus(database) as bus:
        inbox: Inbox[AsDataclass] = Inbox()

        @bus.listener()
        async def handle(event: AsDataclass) -> None:
            inbox.put(event)

        async with running(bus):
            await bus.publish(AsDataclass(1))
            assert await inbox.take(1) == [AsDataclass(1)]


async def test_bound_methods_partials_and_callable_objects_are_handlers(database: str) -> None:
    async with open_bus(database) as bus:
        inbox: Inbox[tuple[str, int]] = Inbox()

        class Service:
            async def method(self, event: dict[str, int]) -> None:
                inbox.put(("method", event["n"]))

            def plain_method(self, event: dict[str, int]) -> None:
                inbox.put(("plain method", event["n"]))

            async def __call__(self, event: dict[str, int]) -> None:
                inbox.put(("object", event["n"]))

        async def labelled(event: dict[str, int], label: str = "") -> None:
            inbox.put((label, event["n"]))

        service = Service()
        partial = functools.partial(labelled, label="partial")
        handlers: list[Callable[..., Any]] = [service.method, service.plain_method, service, partial]
        for number, handler in enumerate(handlers):
            bus.listener("a.b", name=f"listener-{number}")(handler)
        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            assert sorted(await inbox.take(4)) == [("method", 1), ("object", 1), ("partial", 1), ("plain method", 1)]


async def test_a_plain_function_runs_in_a_thread_and_never_blocks_the_loop(database: str) -> None:
    async with open_bus(database) as bus:
        inbox: Inbox[int] = Inbox()
        released, started = threading.Event(), Inbox[threading.Thread]()

        @bus.listener("slow.event", name="blocking")
        def block(event: dict[str, int]) -> None:
            started.put(threading.current_thread())
            assert released.wait(30)
            inbox.put(event["n"])

        @bus.listener("quick.event", name="quick")
        async def quick(event: dict[str, int]) -> None:
            inbox.put(event["n"])

        async with running(bus):
            await bus.publish({"n": 1}, topic="slow.event")
            [thread] = await started.take(1)
            assert thread is not threading.main_thread()
            await bus.publish({"n": 2}, topic="quick.event")
            assert await inbox.take(1) == [2]
            released.set()
            assert await inbox.take(2) == [2, 1]


async def test_plain_functions_run_at_once_up_to_the_concurrency(database: str) -> None:
    async with open_bus(database) as bus:
        barrier = threading.Barrier(3, timeout=10)
        inbox: Inbox[int] = Inbox()

        @bus.listener("a.b", name="mail", concurrency=3, retry=1)
        def meet(event: dict[str, int]) -> None:
            barrier.wait()
            inbox.put(event["n"])

        async with running(bus):
            await bus.publish_many([{"n": number} for number in range(3)], topic="a.b")
            assert sorted(await inbox.take(3)) == [0, 1, 2]


async def test_plain_functions_that_hang_leave_other_listeners_their_threads(database: str) -> None:
    async with open_bus(database, listener_threads=2) as bus:
        inbox, hanging = Inbox[int](), Inbox[int]()
        released = threading.Event()

        @bus.listener("a.b", name="hanging")
        def hang(event: dict[str, int]) -> None:
            hanging.put(event["n"])
            released.wait(30)

        @bus.listener("c.d", name="other")
        def handle(event: dict[str, int]) -> None:
            inbox.put(event["n"])

        async with running(bus):
            await bus.publish_many([{"n": number} for number in range(10)], topic="a.b")
            await hanging.take(2)
            await bus.publish({"n": 1}, topic="c.d")
            assert await inbox.take(1, timeout=3) == [1]
            released.set()


async def test_a_plain_function_that_waits_for_a_thread_does_not_time_out(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database, listener_threads=1) as bus:

        @bus.listener("a.b", name="mail", concurrency=5, timeout=0.5, retry=1)
        def handle(event: dict[str, int]) -> None:
            time.sleep(0.15)  # a quarter of the timeout, and five of them one after the other

        async with running(bus):
            await bus.publish_many([{"n": number} for number in range(5)], topic="a.b")
            await until_idle(connection)
    assert await letters(connection) == []


async def test_the_concurrency_is_never_exceeded(database: str) -> None:
    async with open_bus(database) as bus:
        now, most = 0, 0
        inbox: Inbox[int] = Inbox()

        @bus.listener("a.b", name="mail", concurrency=3)
        async def handle(event: dict[str, int]) -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1
            inbox.put(event["n"])

        async with running(bus):
            await bus.publish_many([{"n": number} for number in range(200)], topic="a.b")
            await inbox.take(200)
    assert most == 3


async def test_a_context_tells_of_the_event_the_attempt_and_the_listener(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_bus(database) as bus:
        contexts: Inbox[pgbus.Context] = Inbox()

        @bus.listener("a.b", name="mail", retry=QUICK_RETRY)
        async def handle(event: dict[str, int], about: pgbus.Context) -> None:
            contexts.put(about)
            about.logger.warning("at work")
            if about.attempt == 1:
                raise ValueError("once more")

        async with running(bus):
            published = await bus.publish({"n": 1}, topic="a.b", key="k", headers={"trace": "t"})
            first, second = await contexts.take(2)
    assert (first.attempt, second.attempt, first.listener_name) == (1, 2, "mail")
    stored = first.event
    assert (stored.event_id, stored.topic, stored.key, stored.headers) == (
        published.event_id,
        "a.b",
        "k",
        {"trace": "t"},
    )
    assert stored.position is not None
    assert stored.published_at is not None
    record = next(record for record in caplog.records if record.message == "at work")
    assert record.__dict__["listener_name"] == "mail"
    assert record.__dict__["event_id"] == str(published.event_id)


async def test_a_handler_may_take_the_stored_event_itself(database: str) -> None:
    async with open_bus(database) as bus:
        inbox: Inbox[pgbus.EventMessage] = Inbox()

        @bus.listener("a.b", name="mail")
        async def handle(event: pgbus.EventMessage) -> None:
            inbox.put(event)

        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            [event] = await inbox.take(1)
    assert (event.topic, event.payload, event.headers) == ("a.b", {"n": 1}, {})


async def test_a_handler_publishes_through_its_context(database: str) -> None:
    async with open_bus(database) as bus:
        inbox: Inbox[int] = Inbox()

        @bus.listener("first.step", name="first")
        async def first(event: dict[str, int], context: pgbus.Context) -> None:
            await context.publish({"n": event["n"] + 1}, topic="second.step")

        @bus.listener("second.step", name="second")
        def second(event: dict[str, int], context: pgbus.Context) -> None:
            context.publish_sync({"n": event["n"] + 1}, topic="third.step")

        @bus.listener("third.step", name="third")
        async def third(event: dict[str, int]) -> None:
            inbox.put(event["n"])

        async with running(bus):
            await bus.publish({"n": 1}, topic="first.step")
            assert await inbox.take(1) == [3]


# ----------------------------------------------------------------------------------------------- which events it hears


async def test_a_listener_hears_several_topics_and_patterns_each_event_once(database: str) -> None:
    async with open_bus(database) as bus:
        inbox: Inbox[str] = Inbox()

        @bus.listener("orders.placed", "orders.*", "users.**", name="mail")
        async def handle(event: pgbus.EventMessage) -> None:
            inbox.put(event.topic)

        topics = ["orders.placed", "orders.paid", "orders.paid.late", "users", "users.a.b", "nobody.hears"]
        async with running(bus):
            for topic in topics:
                await bus.publish({}, topic=topic)
            await bus.publish({}, topic="orders.last")
            await inbox.until(lambda seen: "orders.last" in seen)
    assert sorted(inbox.items) == ["orders.last", "orders.paid", "orders.placed", "users", "users.a.b"]


async def test_a_union_annotation_decodes_each_topic_into_its_class(database: str) -> None:
    async with open_bus(database) as bus:
        inbox: Inbox[object] = Inbox()

        @bus.listener(AsDataclass, AsStruct, name="mail", concurrency=1)
        async def handle(event: AsDataclass | AsStruct) -> None:
            inbox.put(event)

        async with running(bus):
            await bus.publish(AsDataclass(1))
            await bus.publish(AsStruct(2))
            assert await inbox.take(2) == [AsDataclass(1), AsStruct(2)]


async def test_a_listener_on_a_parent_hears_its_subclasses_as_what_they_are(database: str) -> None:
    async with open_bus(database) as bus:
        inbox: Inbox[Animal] = Inbox()

        @bus.listener(Animal, name="mail", concurrency=1)
        async def handle(event: Animal) -> None:
            inbox.put(event)

        async with running(bus):
            await bus.publish(Animal("a"))
            await bus.publish(Dog("d", "roll"))
            assert await inbox.take(2) == [Animal("a"), Dog("d", "roll")]


async def test_a_subclass_that_only_the_publisher_knows_arrives_as_its_parent(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        inbox: Inbox[Animal] = Inbox()

        @bus.listener(Animal, name="mail")
        async def handle(event: Animal) -> None:
            inbox.put(event)

        async with running(bus):
            await connection.execute(
                "INSERT INTO pgbus.outbox (topic, ancestors, payload) VALUES ($1, $2, $3)",
                "animals.cat",
                ["animals.animal"],
                '{"name": "c", "lives": 9}',
            )
            assert await inbox.take(1) == [Animal("c")]


# ------------------------------------------------------------------------------------------------------------- batches


async def test_a_batch_handler_takes_a_list_of_events(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        inbox: Inbox[list[AsDataclass]] = Inbox()
        contexts: list[pgbus.Context] = []

        @bus.listener(AsDataclass, name="mail", batch=True, batch_size=10)
        async def handle(events: list[AsDataclass], context: pgbus.Context) -> None:
            inbox.put(events)
            contexts.append(context)

        async with running(bus):
            await bus.publish_many([AsDataclass(number) for number in range(25)])
            await inbox.until(lambda lists: sum(map(len, lists)) == 25)
            await until_idle(connection)
    assert sorted(event.n for events in inbox.items for event in events) == list(range(25))
    assert 1 < max(map(len, inbox.items)) <= 10
    assert [len(context.events) for context in contexts] == [len(events) for events in inbox.items]
    assert await connection.fetchval("SELECT count(*) FROM pgbus.history WHERE outcome = 'done'") == 25


async def test_a_batch_handler_may_be_a_plain_function(database: str) -> None:
    async with open_bus(database) as bus:
        inbox: Inbox[list[dict[str, int]]] = Inbox()

        @bus.listener("a.b", name="mail", batch=True)
        def handle(events: list[dict[str, int]]) -> None:
            inbox.put(events)

        async with running(bus):
            await bus.publish_many([{"n": number} for number in range(5)], topic="a.b")
            await inbox.until(lambda lists: sum(map(len, lists)) == 5)


async def test_a_failed_batch_is_tried_event_by_event_and_only_the_culprit_is_retried(
    database: str, connect: Connect
) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        calls: Inbox[list[int]] = Inbox()

        @bus.listener("a.b", name="mail", batch=True, batch_size=10, retry=1)
        async def handle(events: list[dict[str, int]]) -> None:
            numbers = [event["n"] for event in events]
            calls.put(numbers)
            if 3 in numbers:
                raise ValueError("three")

        async with running(bus):
            await bus.publish_many([{"n": number} for number in range(6)], topic="a.b")
            await calls.until(lambda lists: [3] in lists)
            await until_idle(connection)
    assert await letters(connection) == [("mail", "ValueError: three", 1)]
    done = await connection.fetch("SELECT payload FROM pgbus.event_history WHERE outcome = 'done'")
    assert sorted(json.loads(row["payload"])["n"] for row in done) == [0, 1, 2, 4, 5]


async def test_an_undecodable_event_of_a_batch_is_dead_and_the_others_are_handled_together(
    database: str, connect: Connect
) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        calls: Inbox[list[int]] = Inbox()

        @bus.listener(AsDataclass, name="mail", batch=True, batch_size=10)
        async def handle(events: list[AsDataclass]) -> None:
            calls.put([event.n for event in events])

        async with running(bus):
            await bus.publish_many([{"n": 0}, {"n": "one"}, {"n": 2}], topic="shapes.dataclass")
            await until_idle(connection)
    assert sorted(number for call in calls.items for number in call) == [0, 2]
    [(_, error, attempts)] = await letters(connection)
    assert (error.split(":")[0], attempts) == ("UnhandledEventError", 1)


# ---------------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    "payload",
    ['{"n": "seven"}', "{}", "[]", "null", '{"n": 1.5}'],
    ids=["wrong type", "missing field", "a list", "null", "a fraction"],
)
async def test_a_payload_that_does_not_fit_is_dead_at_the_first_attempt_and_others_go_on(
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


async def test_an_event_of_a_class_that_the_handler_does_not_know_is_dead_with_the_reason(
    database: str, connect: Connect
) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:

        @bus.listener("animals.*", name="mail")
        async def handle(event: Animal) -> None: ...

        async with running(bus):
            await bus.publish({"scales": 7}, topic="animals.fish")
            watch = Watch(bus)
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
            assert await attempts.take(5, timeout=5) == [1, 2, 3, 4, 5]


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
            released.wait(30)

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
            await until_idle(connection, timeout=5)
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
            await until_idle(connection, timeout=5)
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

        @bus.listener("a.b", name="mail")
        async def handle(event: dict[str, int]) -> None:
            if event["n"] == 1:
                raise pgbus.Retry(after=after)
            inbox.put(event["n"])

        async with running(bus):
            watch = Watch(bus)
            await bus.publish_many([{"n": 1}, {"n": 2}], topic="a.b")
            assert await inbox.take(1) == [2]
            await watch.until(lambda _: sum(seen.retried for seen in watch.of(Settled)) == 1, timeout=5)
    [row] = await connection.fetch("SELECT attempt, claim_token FROM pgbus.deliveries")
    assert tuple(row) == (2, None)


async def test_giving_up_is_logged_with_the_event_and_the_error(
    database: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:

        @bus.listener("a.b", name="mail", retry=1)
        async def handle(event: dict[str, int]) -> None:
            raise ValueError("no")

        async with running(bus):
            await bus.publish({}, topic="a.b")
            await until_idle(connection)
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.message.startswith("mail gave up on event ")
    assert record.message.endswith("after attempt 1: ValueError: no")
    assert record.exc_info


async def test_history_tells_how_long_a_handler_took(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:

        @bus.listener("a.b", name="mail")
        def handle(event: dict[str, int]) -> None:
            time.sleep(0.05)  # what is measured

        async with running(bus):
            await bus.publish({}, topic="a.b")
            await until_idle(connection)
    assert 0.05 <= await connection.fetchval("SELECT duration FROM pgbus.history") < 5
