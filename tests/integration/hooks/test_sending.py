"""Hooks before and after an event is sent, by every way of sending it, and the threads that they run on."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import psycopg
import pytest

import pgbus
from pgbus.testing import BusMocker, deliver_now
from tests.support.threads import in_thread
from tests.support.waiting import PATIENCE
from tests.support.workers import Inbox, running


async def sent(connection: asyncpg.Connection) -> list[dict[str, Any]]:
    """The events in the outbox, payload and headers decoded."""
    rows = await connection.fetch("SELECT payload::text, headers::text, key FROM pgbus.outbox ORDER BY id")
    return [
        {"payload": json.loads(row["payload"]), "headers": json.loads(row["headers"] or "{}"), "key": row["key"]}
        for row in rows
    ]


# ------------------------------------------------------------------------------------------------------------ sending


@dataclass
class Face:
    """One way to send the event `auth.user_created`, as the user `ada`."""

    send: Callable[[pgbus.Bus, str], Any]
    is_sync: bool = False


async def _in_asyncpg(bus: pgbus.Bus, dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await bus.publish({"username": "ada"}, topic="auth.user_created", using=connection)
    finally:
        await connection.close()


def _in_psycopg(bus: pgbus.Bus, dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        bus.publish_sync({"username": "ada"}, topic="auth.user_created", using=connection)


def _many_in_psycopg(bus: pgbus.Bus, dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        bus.publish_many_sync([{"username": "ada"}], topic="auth.user_created", using=connection)


FACES = {
    "publish": Face(lambda bus, _: bus.publish({"username": "ada"}, topic="auth.user_created")),
    "publish_sync": Face(lambda bus, _: bus.publish_sync({"username": "ada"}, topic="auth.user_created"), True),
    "publish using": Face(_in_asyncpg),
    "publish_sync using": Face(_in_psycopg, True),
    "fire": Face(lambda bus, _: bus.auth.user_created.fire(username="ada"), True),
    "fire_async": Face(lambda bus, _: bus.auth.user_created.fire_async(username="ada")),
    "publish_many": Face(lambda bus, _: bus.publish_many([{"username": "ada"}], topic="auth.user_created")),
    "publish_many_sync": Face(
        lambda bus, _: bus.publish_many_sync([{"username": "ada"}], topic="auth.user_created"), True
    ),
    "publish_many_sync using": Face(_many_in_psycopg, True),
}
EACH_FACE = pytest.mark.parametrize("face", FACES.values(), ids=FACES.keys())


async def send(face: Face, bus: pgbus.Bus, dsn: str) -> Any:
    return await in_thread(lambda: face.send(bus, dsn)) if face.is_sync else await face.send(bus, dsn)


@EACH_FACE
async def test_what_hooks_change_before_an_event_is_sent_is_sent(
    bus: pgbus.Bus, database: str, connection: asyncpg.Connection, face: Face
) -> None:
    after: list[tuple[Any, str]] = []

    @bus.client.before_event_sent()
    def in_place(event_message: pgbus.EventMessage) -> None:
        event_message.kwargs["username"] += " lovelace"
        event_message.headers["trace"] = "1"

    @bus.client.before_event_sent()
    async def assigned(event_message: pgbus.EventMessage) -> None:
        event_message.payload = {**event_message.payload, "admin": True}
        event_message.headers = {**event_message.headers, "span": "2"}
        event_message.key = "u1"

    @bus.client.after_event_sent()
    def look(event_message: pgbus.EventMessage) -> None:
        after.append((event_message.payload, event_message.id))

    await send(face, bus, database)
    [event] = await sent(connection)
    assert event["payload"] == {"username": "ada lovelace", "admin": True}
    assert {"trace": "1", "span": "2"}.items() <= event["headers"].items()
    assert event["key"] == "u1"
    event_id = await connection.fetchval("SELECT event_id FROM pgbus.outbox")
    assert after == [(event["payload"], str(event_id))]


@EACH_FACE
async def test_an_error_of_a_hook_before_sending_is_raised_and_nothing_is_sent(
    bus: pgbus.Bus, database: str, connection: asyncpg.Connection, face: Face
) -> None:
    @bus.client.before_event_sent()
    def refuse() -> None:
        raise PermissionError("not you")

    with pytest.raises(PermissionError, match="not you"):
        await send(face, bus, database)
    assert await sent(connection) == []


async def test_an_error_of_a_hook_after_sending_is_raised_and_the_event_is_sent(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    @bus.client.after_event_sent()
    async def fail() -> None:
        raise ValueError("too late")

    with pytest.raises(ValueError, match="too late"):
        await bus.publish({"n": 1}, topic="a.b")
    with pytest.raises(ValueError, match="too late"):
        await in_thread(lambda: bus.publish_sync({"n": 2}, topic="a.b"))
    assert [event["payload"] for event in await sent(connection)] == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda message: message.payload.update(n=float("nan")), "payload"),
        (lambda message: setattr(message, "payload", object()), "payload"),
        (lambda message: setattr(message, "key", ""), "key"),
        (lambda message: message.headers.update(n=1), "headers"),
    ],
)
async def test_what_hooks_make_of_an_event_is_checked_before_it_is_sent(
    bus: pgbus.Bus, connection: asyncpg.Connection, change: Callable[[pgbus.EventMessage], None], field: str
) -> None:
    @bus.client.before_event_sent()
    def spoil(event_message: pgbus.EventMessage) -> None:
        change(event_message)

    with pytest.raises(pgbus.InvalidEventError) as caught:
        await bus.publish({"n": 1}, topic="a.b")
    assert caught.value.field == field
    assert await sent(connection) == []


async def test_a_hook_that_only_looks_leaves_the_event_as_it_was(bus: pgbus.Bus) -> None:
    seen: list[object] = []

    @bus.client.before_event_sent()
    def look(event_message: pgbus.EventMessage) -> None:
        seen.extend([event_message.payload, event_message.headers, event_message.kwargs])

    published = await bus.publish({"b": 1.0, "a": 10**30}, topic="a.b", headers={"x": "y"})
    assert published.raw == '{"b":1.0,"a":1000000000000000000000000000000}'
    assert seen == [{"b": 1.0, "a": 10**30}, {"x": "y"}, {"b": 1.0, "a": 10**30}]


async def test_a_value_that_equals_the_old_one_but_is_of_another_type_is_sent(bus: pgbus.Bus) -> None:
    @bus.client.before_event_sent()
    def change(event_message: pgbus.EventMessage) -> None:
        event_message.payload["flag"] = 1

    assert (await bus.publish({"flag": True}, topic="a.b")).raw == '{"flag":1}'


async def test_events_in_bulk_are_shown_to_hooks_one_by_one(bus: pgbus.Bus, connection: asyncpg.Connection) -> None:
    @bus.client.before_event_sent()
    async def double(event_message: pgbus.EventMessage) -> None:
        event_message.payload["n"] *= 2

    after: list[str] = []

    @bus.client.after_event_sent()
    async def note(event_message: pgbus.EventMessage) -> None:
        after.append(event_message.id)

    ids = await bus.publish_many([{"n": n} for n in range(3)], topic="a.b")
    assert [event["payload"]["n"] for event in await sent(connection)] == [0, 2, 4]
    assert after == [str(event_id) for event_id in ids]


async def test_a_hook_after_a_duplicate_learns_the_id_of_the_first_event(bus: pgbus.Bus) -> None:
    ids: list[str] = []

    @bus.client.after_event_sent()
    def note(event_message: pgbus.EventMessage) -> None:
        ids.append(event_message.id)

    first = await bus.publish({}, topic="a.b", dedup_key="once")
    await bus.publish({}, topic="a.b", dedup_key="once")
    assert ids == [first.id, first.id]


async def test_what_a_handler_publishes_passes_the_hooks(bus: pgbus.Bus) -> None:
    inbox: Inbox[Any] = Inbox()

    @bus.client.before_event_sent()
    async def stamp(event_message: pgbus.EventMessage) -> None:
        event_message.payload["stamped"] = event_message.topic

    @bus.listener("first.event", name="first")
    async def first(event: dict[str, Any], context: pgbus.Context) -> None:
        await context.publish({}, topic="second.event")

    @bus.listener("second.event", name="second")
    def second(event: dict[str, Any], context: pgbus.Context) -> None:
        inbox.put(event)
        context.publish_sync({}, topic="third.event")

    @bus.listener("third.event", name="third")
    async def third(event: dict[str, Any]) -> None:
        inbox.put(event)

    async with running(bus):
        await bus.publish({}, topic="first.event")
        assert await inbox.take(2) == [{"stamped": "second.event"}, {"stamped": "third.event"}]


async def test_a_mocked_bus_calls_the_hooks(bus: pgbus.Bus) -> None:
    seen: list[str] = []
    bus.client.before_event_sent(lambda event_message: event_message.kwargs.update(username="eve"))
    bus.client.after_event_sent(lambda event_message: seen.append(event_message.canonical_name))
    bus.client.before_rpc_call(lambda rpc_message: rpc_message.kwargs.update(username="eve"))
    bus.client.after_rpc_call(lambda result_message: seen.append(result_message.result))
    with BusMocker(bus) as mock:
        mock.mock_event_firing("auth.user_created")
        mock.mock_rpc_call("auth.greet", "hi")
        await bus.auth.user_created.fire_async(username="ada")
        await bus.auth.greet.call_async(username="ada")
    assert [message.kwargs for message in mock.get_event_messages()] == [{"username": "eve"}]
    assert [message.kwargs for message in mock.get_rpc_messages()] == [{"username": "eve"}]
    assert seen == ["auth.user_created", "hi"]


@pytest.mark.parametrize("batch", [False, True])
async def test_deliveries_of_a_test_pass_hooks_and_middleware(
    bus: pgbus.Bus, connection: asyncpg.Connection, batch: bool
) -> None:
    calls: list[object] = []

    @bus.client.before_event_execution()
    def change(event_message: pgbus.EventMessage) -> None:
        event_message.payload["n"] += 1

    @bus.middleware
    async def wrap(context: pgbus.Context, call_next: Callable[[], Any]) -> Any:
        calls.append("in")
        await call_next()
        calls.append("out")

    bus.client.after_event_execution(lambda event_message: calls.append(event_message.payload))

    async def handle(event: dict[str, int]) -> None:
        calls.append(event)

    async def handle_batch(events: list[dict[str, int]]) -> None:
        calls.append(events)

    bus.listener("a.b", name="tested", batch=batch)(handle_batch if batch else handle)
    async with connection.transaction():
        await bus.publish_many([{"n": 1}], topic="a.b", using=connection)
        await deliver_now(bus, using=connection)
    assert calls == ["in", [{"n": 2}] if batch else {"n": 2}, "out", {"n": 2}]


# ------------------------------------------------------------------------------------------------------------ threads


async def test_plain_hooks_never_run_on_the_thread_of_an_event_loop(bus: pgbus.Bus) -> None:
    names: list[str] = []

    @bus.client.before_event_sent()
    def note() -> None:
        names.append(threading.current_thread().name)

    await bus.publish({}, topic="a.b")
    assert names[0].startswith("pgbus-hook")


async def test_blocking_code_runs_plain_hooks_in_its_thread_async_ones_on_the_loop(
    bus: pgbus.Bus, database: str
) -> None:
    threads: list[threading.Thread] = []

    @bus.client.before_event_sent()
    def plain() -> None:
        threads.append(threading.current_thread())

    @bus.client.before_event_sent()
    async def on_a_loop() -> None:
        threads.append(threading.current_thread())

    def work() -> threading.Thread:
        bus.publish_sync({}, topic="a.b")
        _in_psycopg(bus, database)
        return threading.current_thread()

    own = await in_thread(work)
    assert [thread is own for thread in threads] == [True, False, True, False]
    assert threads[1].name == threads[3].name == "pgbus-portal"


async def test_an_async_hook_refuses_a_blocking_send_on_an_event_loops_thread(
    bus: pgbus.Bus, database: str, connection: asyncpg.Connection
) -> None:
    @bus.client.after_event_sent()
    async def later() -> None: ...

    refusal = pytest.raises(pgbus.CannotBlockHere, match="await publish, or make the hook a plain function")
    with psycopg.connect(database) as blocking, refusal:
        bus.publish_sync({}, topic="a.b", using=blocking)
    assert await sent(connection) == []


async def test_plain_hooks_that_publish_do_not_wait_for_each_others_threads(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    @bus.client.after_event_sent()
    def report(event_message: pgbus.EventMessage) -> None:
        if event_message.topic == "a.b":
            bus.publish_sync({}, topic="report.sent")

    @bus.client.after_event_sent()
    async def audit(event_message: pgbus.EventMessage) -> None:
        if event_message.topic == "report.sent":
            await bus.publish({}, topic="audit.sent")

    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(bus.publish({}, topic="a.b") for _ in range(50)))
    assert len(await sent(connection)) == 150
