"""Hooks: when they are called, with what, in which order and thread; what they change, and what if one fails."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy.orm import Session

import pgbus
from pgbus.bus import make_worker
from pgbus.listeners import hooks as listener_hooks
from pgbus.telemetry import Claimed, Settled
from pgbus.testing import BusMocker, deliver_now
from tests.conftest import Connect
from tests.support import eventually
from tests.support.workers import PATIENCE, QUICK_RETRY, Inbox, Watch, open_bus, running


class AuthApi(pgbus.Api):
    user_created = pgbus.Event(parameters=("username",))

    class Meta:
        name = "auth"

    def greet(self, username: str) -> str:
        return f"hello {username}"


@pytest.fixture
async def bus(database: str) -> AsyncIterator[pgbus.Bus]:
    async with open_bus(database) as opened:
        opened.client.register_api(AuthApi())
        yield opened


@pytest.fixture
async def connection(database: str, connect: Connect) -> asyncpg.Connection:
    return await connect(database)


async def sent(connection: asyncpg.Connection) -> list[dict[str, Any]]:
    """The events in the outbox, payload and headers decoded."""
    rows = await connection.fetch("SELECT payload::text, headers::text, key FROM pgbus.outbox ORDER BY id")
    return [
        {"payload": json.loads(row["payload"]), "headers": json.loads(row["headers"] or "{}"), "key": row["key"]}
        for row in rows
    ]


async def in_thread(function: Callable[[], Any]) -> Any:
    return await asyncio.wait_for(asyncio.to_thread(function), PATIENCE)


# -------------------------------------------------------------------------------------------------------- registering


class Plugin:
    def __init__(self, calls: list[str]) -> None:
        self._calls = calls

    async def before_event_sent(self) -> None:
        self._calls.append("plugin")

    def after_event_sent(self, client: pgbus.BusClient) -> None:
        self._calls.append("plugin, after")


async def test_hooks_run_before_plugins_then_plugins_then_others_each_in_the_order_of_registration(
    bus: pgbus.Bus,
) -> None:
    calls: list[str] = []

    @bus.client.before_event_sent()
    def last() -> None:
        calls.append("last")

    bus.client.hook_registry.add_plugin(Plugin(calls))

    @bus.client.before_event_sent(before_plugins=True)
    async def first() -> None:
        calls.append("first")

    def second() -> None:
        calls.append("second")

    assert bus.client.before_event_sent(second, before_plugins=True) is second
    bus.client.before_event_sent(second)
    bus.client.after_event_sent(lambda: calls.append("last, after"))
    bus.client.after_event_sent(lambda: calls.append("first, after"), before_plugins=True)

    await bus.publish({}, topic="a.b")
    await in_thread(lambda: bus.publish_sync({}, topic="a.b"))

    before, after = ["first", "second", "plugin", "last"], ["first, after", "plugin, after", "last, after"]
    assert calls == [*before, *after, *before, *after]


async def test_a_hook_gets_what_it_has_parameters_for(bus: pgbus.Bus) -> None:
    given: list[dict[str, object]] = []

    def nothing() -> None:
        given.append({})

    async def message(event_message: pgbus.EventMessage) -> None:
        given.append({"event_message": event_message})

    def client(*, client: pgbus.BusClient, depth: int = 1) -> None:
        given.append({"client": client})

    def everything(event_message: pgbus.EventMessage, **rest: object) -> None:
        given.append({"event_message": event_message, **rest})

    for hook in (nothing, message, client, everything):
        bus.client.after_event_sent(hook)
    published = await bus.publish({}, topic="a.b")
    assert given == [
        {},
        {"event_message": published},
        {"client": bus.client},
        {"event_message": published, "client": bus.client},
    ]


def _generator() -> Any:
    yield


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        (3, "3 is not a function"),
        (lambda message: None, "a parameter 'message' that nothing is passed for.*client, event_message"),
        (lambda event_message, /: None, "a parameter 'event_message'"),
        (lambda rpc_message: None, "a parameter 'rpc_message'"),
        (_generator, "is a generator"),
    ],
)
async def test_what_cannot_be_called_as_a_hook_is_refused_when_it_is_registered(
    bus: pgbus.Bus, hook: Any, said: str
) -> None:
    with pytest.raises(pgbus.ConfigurationError, match=said):
        bus.client.before_event_sent(hook)
    with pytest.raises(pgbus.ConfigurationError, match=said):
        bus.client.before_event_sent()(hook)


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
async def test_what_a_hook_raises_before_an_event_is_sent_comes_through_and_nothing_is_sent(
    bus: pgbus.Bus, database: str, connection: asyncpg.Connection, face: Face
) -> None:
    @bus.client.before_event_sent()
    def refuse() -> None:
        raise PermissionError("not you")

    with pytest.raises(PermissionError, match="not you"):
        await send(face, bus, database)
    assert await sent(connection) == []


async def test_what_a_hook_raises_after_an_event_is_sent_comes_through_and_the_event_is_sent(
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


async def test_code_that_blocks_runs_plain_hooks_in_its_own_thread_and_async_ones_on_the_loop_of_the_bus(
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


async def test_an_async_hook_refuses_a_blocking_send_on_the_thread_of_an_event_loop_before_anything_is_sent(
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


# -------------------------------------------------------------------------------------------------------------- calls


@pytest.fixture
async def served(bus: pgbus.Bus) -> AsyncIterator[pgbus.Bus]:
    @bus.procedure("math.half")
    async def half(number: int) -> float:
        return number / 2

    @bus.procedure("math.fail")
    def fail() -> None:
        raise ValueError("no")

    @bus.procedure("math.wrong")
    async def wrong() -> int:
        return "text"  # type: ignore[return-value]

    async with running(bus):
        yield bus


Exchange = tuple[str, pgbus.RpcMessage, pgbus.ResultMessage | None]


def note_exchanges(bus: pgbus.Bus) -> list[Exchange]:
    noted: list[Exchange] = []
    client = bus.client
    client.before_rpc_call(lambda rpc_message: noted.append(("before call", rpc_message, None)))
    client.before_rpc_execution(lambda rpc_message: noted.append(("before execution", rpc_message, None)))
    client.after_rpc_execution(
        lambda rpc_message, result_message: noted.append(("after execution", rpc_message, result_message))
    )
    client.after_rpc_call(lambda rpc_message, result_message: noted.append(("after call", rpc_message, result_message)))
    return noted


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_call_passes_four_hooks_which_know_it_by_one_id(served: pgbus.Bus, blocking: bool) -> None:
    noted = note_exchanges(served)
    if blocking:
        assert await in_thread(lambda: served.math.half(number=4)) == 2.0
    else:
        assert await served.math.half.call_async(number=4) == 2.0
    assert [name for name, _, _ in noted] == ["before call", "before execution", "after execution", "after call"]
    assert len({message.id for _, message, _ in noted}) == 1
    for _, message, result in noted:
        assert (message.api_name, message.procedure_name, message.kwargs) == ("math", "half", {"number": 4})
        if result:
            assert (result.result, result.error, result.trace, result.rpc_message_id) == (2.0, False, None, message.id)


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize(
    ("procedure", "error", "said"),
    [("math.fail", pgbus.RemoteError, "ValueError"), ("math.wrong", pgbus.InvalidResult, "InvalidResult")],
)
async def test_hooks_after_a_call_are_told_of_its_failure(
    served: pgbus.Bus, blocking: bool, procedure: str, error: type[Exception], said: str
) -> None:
    noted = note_exchanges(served)
    with pytest.raises(error):
        await (in_thread(lambda: served.call_sync(procedure)) if blocking else served.call(procedure))
    results = [result for _, _, result in noted if result]
    assert [result.error for result in results] == [True, True]
    assert said in results[0].result
    assert said in (results[0].trace or "")
    assert error.__name__ in results[1].result


async def test_what_hooks_change_in_a_call_travels_and_so_does_what_they_change_in_its_result(
    served: pgbus.Bus,
) -> None:
    client = served.client

    @client.before_rpc_call()
    def before(rpc_message: pgbus.RpcMessage) -> None:
        rpc_message.kwargs["number"] += 6

    @client.before_rpc_execution()
    async def before_execution(rpc_message: pgbus.RpcMessage) -> None:
        rpc_message.kwargs = {"number": rpc_message.kwargs["number"] * 2}

    @client.after_rpc_execution()
    async def after_execution(result_message: pgbus.ResultMessage) -> None:
        result_message.result += 0.5

    @client.after_rpc_call()
    async def after(result_message: pgbus.ResultMessage) -> None:
        result_message.result = str(result_message.result)

    assert await served.call("math.half", {"number": 4}) == "10.5"
    assert await in_thread(lambda: served.call_sync("math.half", {"number": 4})) == "10.5"


async def test_what_hooks_raise_before_a_call_comes_through_and_nothing_is_called(
    served: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    @served.client.before_rpc_call()
    def refuse() -> None:
        raise PermissionError("not you")

    with pytest.raises(PermissionError):
        await served.call("math.half", {"number": 4})
    with pytest.raises(PermissionError):
        await in_thread(lambda: served.call_sync("math.half", {"number": 4}))
    assert await connection.fetchval("SELECT count(*) FROM pgbus.rpc_calls") == 0


@pytest.mark.parametrize("moment", ["before_rpc_execution", "after_rpc_execution"])
async def test_what_hooks_raise_around_an_execution_is_the_answer(served: pgbus.Bus, moment: str) -> None:
    async def fail() -> None:
        raise LookupError("the hook's")

    getattr(served.client, moment)(fail)
    with pytest.raises(pgbus.RemoteError, match="LookupError: the hook's"):
        await served.call("math.half", {"number": 4})


async def test_arguments_that_hooks_spoil_are_refused_like_a_callers(served: pgbus.Bus) -> None:
    served.client.before_rpc_execution(lambda rpc_message: rpc_message.kwargs.update(number="many"))
    with pytest.raises(pgbus.InvalidArguments):
        await served.call("math.half", {"number": 4})


async def test_hooks_are_told_of_a_call_whose_time_was_up(bus: pgbus.Bus) -> None:
    results: Inbox[pgbus.ResultMessage] = Inbox()

    @bus.procedure("slow.wait")
    async def wait() -> None:
        await asyncio.Event().wait()

    @bus.client.after_rpc_execution()
    async def after(result_message: pgbus.ResultMessage) -> None:
        results.put(result_message)

    async with running(bus):
        with pytest.raises(pgbus.CallTimeout):
            await bus.call("slow.wait", timeout=0.3)
        [result] = await results.take(1)
    assert result.error
    assert "CancelledError" in result.result


# ---------------------------------------------------------------------------------------------------- events executed


async def outcomes(connection: asyncpg.Connection) -> list[tuple[int, str]]:
    rows = await connection.fetch("SELECT attempt, outcome FROM pgbus.history ORDER BY position, attempt")
    return [tuple(row) for row in rows]


def listen(bus: pgbus.Bus, kind: str, handle: Callable[[Any], None], **options: Any) -> None:
    """A listener of one kind, whose handler passes on each event."""
    options = {"name": "tested", "retry": QUICK_RETRY, **options}
    if kind == "async":

        @bus.listener("a.b", **options)
        async def one(event: dict[str, Any]) -> None:
            handle(event)

    elif kind == "plain":

        @bus.listener("a.b", **options)
        def plain(event: dict[str, Any]) -> None:
            handle(event)

    elif kind == "batch":

        @bus.listener("a.b", batch=True, **options)
        async def batch(events: list[dict[str, Any]]) -> None:
            for event in events:
                handle(event)

    elif kind == "ordered":

        @bus.listener("a.b", ordered=True, **options)
        async def ordered(event: dict[str, Any]) -> None:
            handle(event)

    elif kind == "transactional":

        @bus.listener("a.b", transactional=True, **options)
        async def transactional(event: dict[str, Any], connection: asyncpg.Connection) -> None:
            handle(event)

    elif kind == "plain transactional":

        @bus.listener("a.b", transactional=True, **options)
        def plain_transactional(event: dict[str, Any], session: Session) -> None:
            handle(event)

    else:

        @bus.listener("a.b", transactional=True, batch=True, **options)
        async def both(events: list[dict[str, Any]], connection: asyncpg.Connection) -> None:
            for event in events:
                handle(event)


KINDS = ("async", "plain", "batch", "ordered", "transactional", "plain transactional", "transactional batch")
EACH_KIND = pytest.mark.parametrize("kind", KINDS)


@EACH_KIND
async def test_what_hooks_change_before_an_execution_is_what_the_handler_gets(
    bus: pgbus.Bus, connection: asyncpg.Connection, kind: str
) -> None:
    inbox: Inbox[Any] = Inbox()
    listen(bus, kind, inbox.put)
    after: Inbox[Any] = Inbox()

    @bus.client.before_event_execution()
    def plain(event_message: pgbus.EventMessage) -> None:
        event_message.payload["seen"] = [event_message.topic]

    @bus.client.before_event_execution()
    async def on_the_loop(event_message: pgbus.EventMessage) -> None:
        event_message.payload["seen"].append(event_message.position is not None)

    bus.client.after_event_execution(lambda event_message: after.put(event_message.payload))
    async with running(bus):
        await bus.publish_many([{"n": n} for n in range(3)], topic="a.b")
        events = await inbox.take(3)
        settled = await after.take(3)
    expected = [{"n": n, "seen": ["a.b", True]} for n in range(3)]
    assert sorted(events, key=lambda event: event["n"]) == expected
    assert sorted(settled, key=lambda event: event["n"]) == expected
    stored = await connection.fetch("SELECT payload::text FROM pgbus.events ORDER BY position")
    assert [json.loads(row["payload"]) for row in stored] == [{"n": n} for n in range(3)]


@EACH_KIND
async def test_what_a_hook_raises_before_an_execution_fails_the_attempt(
    bus: pgbus.Bus, connection: asyncpg.Connection, kind: str
) -> None:
    inbox: Inbox[Any] = Inbox()
    watch = Watch(bus)
    listen(bus, kind, inbox.put)
    calls: list[int] = []

    @bus.client.before_event_execution()
    async def fail_at_first(event_message: pgbus.EventMessage) -> None:
        calls.append(event_message.payload["n"])
        if event_message.payload["n"] == 2:
            raise pgbus.Dead("the hook gave it up")
        if calls.count(event_message.payload["n"]) == 1:
            raise ValueError("not at first")

    async with running(bus):
        await bus.publish({"n": 1}, topic="a.b")
        assert await inbox.take(1) == [{"n": 1}]
        await bus.publish({"n": 2}, topic="a.b")
        await watch.until(lambda _: any(settled.dead for settled in watch.of(Settled)))
    assert await outcomes(connection) == [(1, "retry"), (2, "done"), (1, "dead")]
    assert inbox.items == [{"n": 1}]


async def test_a_hook_changes_each_attempt_anew(bus: pgbus.Bus) -> None:
    inbox: Inbox[Any] = Inbox()

    @bus.client.before_event_execution()
    async def count(event_message: pgbus.EventMessage) -> None:
        event_message.payload["n"] += 1

    @bus.listener("a.b", name="tested", retry=QUICK_RETRY)
    async def handle(event: dict[str, int], context: pgbus.Context) -> None:
        inbox.put(event["n"])
        assert context.event.payload == event
        if context.attempt == 1:
            raise ValueError

    async with running(bus):
        await bus.publish({"n": 1}, topic="a.b")
        assert await inbox.take(2) == [2, 2]


@EACH_KIND
async def test_hooks_after_an_execution_run_when_it_is_settled_and_cannot_undo_that(
    bus: pgbus.Bus, connection: asyncpg.Connection, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    inbox: Inbox[Any] = Inbox()
    after: Inbox[Any] = Inbox()
    failures: list[int] = []

    def handle(event: dict[str, int]) -> None:
        inbox.put(event)
        if not failures:
            failures.append(1)
            raise ValueError("at first")

    listen(bus, kind, handle)

    @bus.client.after_event_execution()
    async def note(event_message: pgbus.EventMessage) -> None:
        owed = await connection.fetchval("SELECT count(*) FROM pgbus.deliveries")
        after.put((event_message.payload, owed))
        raise ValueError("the hook's own")

    @bus.client.after_event_execution()
    def note_too(event_message: pgbus.EventMessage) -> None:
        after.put(event_message.payload)

    async with running(bus):
        await bus.publish({"n": 1}, topic="a.b")
        assert await after.take(2) == [({"n": 1}, 0), {"n": 1}]
    assert await outcomes(connection) == [(1, "retry"), (2, "done")]
    assert len(inbox.items) == 2
    assert len(after.items) == 2
    assert "the after_event_execution hook" in caplog.text
    assert "the hook's own" in caplog.text


async def test_slow_hooks_after_executions_hold_up_the_listener_and_not_its_settlements(
    bus: pgbus.Bus, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_hooks, "HOOKS_UNDER_WAY", 5)
    inbox: Inbox[int] = Inbox()
    gate = asyncio.Event()
    begun: Inbox[int] = Inbox()
    watch = Watch(bus)

    @bus.listener("a.b", name="tested", concurrency=1)
    async def handle(event: dict[str, int]) -> None:
        inbox.put(event["n"])

    @bus.client.after_event_execution()
    async def wait(event_message: pgbus.EventMessage) -> None:
        begun.put(event_message.payload["n"])
        await gate.wait()

    async with running(bus):
        try:
            await bus.publish_many([{"n": n} for n in range(5)], topic="a.b")
            await begun.take(5)
            assert await connection.fetchval("SELECT count(*) FROM pgbus.deliveries") == 0
            await bus.publish_many([{"n": n} for n in range(5, 10)], topic="a.b")
            await watch.until(lambda _: sum(claimed.events for claimed in watch.of(Claimed)) == 10)
            assert len(inbox.items) == 5
        finally:
            gate.set()
        await begun.take(10)
    assert sorted(begun.items) == sorted(inbox.items) == list(range(10))
    assert await connection.fetchval("SELECT count(*) FROM pgbus.deliveries") == 0


async def test_a_worker_that_stops_waits_for_the_hooks_after_executions_and_then_runs_those_of_its_stop(
    bus: pgbus.Bus,
) -> None:
    order: list[str] = []
    started, gate = asyncio.Event(), asyncio.Event()

    @bus.listener("a.b", name="tested")
    async def handle(event: dict[str, int]) -> None: ...

    @bus.client.after_event_execution()
    async def wait() -> None:
        started.set()
        await gate.wait()
        order.append("after execution")

    bus.client.on_stop(lambda: order.append("on_stop"))
    async with running(bus) as worker:
        await bus.publish({}, topic="a.b")
        await asyncio.wait_for(started.wait(), PATIENCE)
        worker.request_stop()
        gate.set()
        await worker.stop()
    assert order == ["after execution", "on_stop"]


# --------------------------------------------------------------------------------------------------- a worker's life


async def test_stop_hooks_run_after_the_drain_whatever_one_of_them_raises(
    bus: pgbus.Bus, caplog: pytest.LogCaptureFixture
) -> None:
    order: list[str] = []
    started, gate = asyncio.Event(), asyncio.Event()

    @bus.listener("a.b", name="tested")
    async def handle(event: dict[str, int]) -> None:
        started.set()
        await gate.wait()
        order.append("handled")

    @bus.client.on_stop()
    def fail(client: pgbus.BusClient) -> None:
        order.append("failed")
        raise ValueError("on its way out")

    @bus.client.after_worker_stopped()
    async def publish() -> None:
        await bus.publish({}, topic="worker.stopped")
        order.append("published")

    bus.client.hook_registry.add_plugin(_Stopped(order))
    bus.client.on_stop(lambda any_name: order.append(type(any_name).__name__), before_plugins=True)

    async with running(bus) as worker:
        await bus.publish({}, topic="a.b")
        await asyncio.wait_for(started.wait(), PATIENCE)
        worker.request_stop()
        gate.set()
        await worker.stop()
    assert order == ["handled", "BusClient", "plugin", "failed", "published"]
    assert "on its way out" in caplog.text


class _Stopped:
    def __init__(self, order: list[str]) -> None:
        self._order = order

    async def after_worker_stopped(self, *, client: pgbus.BusClient) -> None:
        self._order.append("plugin")


async def test_stop_hooks_run_when_the_worker_fails_but_not_when_it_never_started(database: str) -> None:
    order: list[str] = []
    bus = pgbus.create("postgresql://localhost:1/nothing")
    bus.client.on_start(lambda: order.append("start"))
    bus.client.on_stop(lambda: order.append("stop"))
    with pytest.raises(pgbus.DatabaseUnreachableError):
        await make_worker(bus).run()
    assert order == ["start", "stop"]

    async with open_bus(database) as other:
        other.client.on_stop(lambda: order.append("never"))

        @other.client.on_start()
        def fail() -> None:
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await make_worker(other).run()
    assert order == ["start", "stop"]


async def test_a_second_stop_request_leaves_a_stop_hook_that_hangs(
    bus: pgbus.Bus, caplog: pytest.LogCaptureFixture
) -> None:
    started = asyncio.Event()

    @bus.client.on_stop()
    async def hang() -> None:
        started.set()
        await asyncio.Event().wait()

    async with running(bus) as worker:
        worker.request_stop()
        await asyncio.wait_for(started.wait(), PATIENCE)
        worker.request_stop()
    assert "on_stop hooks still ran" in caplog.text


async def test_start_hooks_run_before_plugins_then_plugins_then_others_also_those_added_meanwhile(
    bus: pgbus.Bus,
) -> None:
    order: list[str] = []

    class Starting:
        async def before_worker_start(self) -> None:
            order.append("plugin")

    def first() -> None:
        order.append("first")
        bus.client.on_start(lambda: order.append("added"))

    bus.client.on_start(lambda: order.append("last"))
    bus.client.before_worker_start(first, before_plugins=True)
    bus.client.hook_registry.add_plugin(Starting())
    async with running(bus):
        await eventually(lambda: len(order) == 4)
    assert order == ["first", "plugin", "last", "added"]
