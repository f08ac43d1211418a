"""The programs of Litestar's page on events, with pgbus behind `emit` and `@listener`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from litestar import Litestar, Request, post
from litestar.events import EventListener, listener
from litestar.exceptions import ImproperlyConfiguredException
from litestar.params import JSONBody
from litestar.testing import AsyncTestClient

import pgbus
from pgbus.contrib.litestar import PgBusPlugin
from pgbus.contrib.litestar import listener as durable
from pgbus.errors import ConfigurationError, DuplicateListenerName, InvalidEventError
from tests.support import eventually
from tests.support.waiting import PATIENCE
from tests.support.workers import QUICK_RETRY, Inbox


@dataclass
class User:
    id: UUID
    email: str


@asynccontextmanager
async def application(
    bus: pgbus.Bus, *handlers: Any, listeners: Sequence[EventListener], **options: Any
) -> AsyncIterator[AsyncTestClient[Litestar]]:
    plugin = PgBusPlugin(bus, **{"drain_timeout": PATIENCE, **options})
    app = Litestar(list(handlers), listeners=list(listeners), plugins=[plugin])
    async with AsyncTestClient(app) as client:
        yield client


async def dead_letters(connection: asyncpg.Connection) -> dict[str, tuple[int, str]]:
    """By the listener's function: attempts and error."""
    query = "SELECT listener_name, attempts, error FROM pgbus.dead_letters JOIN pgbus.listeners l ON l.id = listener_id"
    return {row[0].rpartition(".")[2]: (row[1], row[2]) for row in await connection.fetch(query)}


async def test_a_welcome_mail_is_sent_once_after_the_response(bus: pgbus.Bus) -> None:
    """L1"""
    sent: Inbox[str] = Inbox()
    may_send = asyncio.Event()

    @listener("user_created")
    async def send_welcome_email_handler(email: str) -> None:
        await may_send.wait()
        sent.put(email)

    @post("/users")
    async def create_user(request: Request[Any, Any, Any]) -> None:
        request.app.emit("user_created", email="adam@example.com")

    async with application(bus, create_user, listeners=[send_welcome_email_handler]) as client:
        assert (await client.post("/users")).status_code == 201
        assert sent.items == []
        may_send.set()
        assert await sent.take(1) == ["adam@example.com"]
    assert sent.items == ["adam@example.com"]


async def test_one_listener_hears_two_events(bus: pgbus.Bus) -> None:
    """L2"""
    sent: Inbox[tuple[str, str]] = Inbox()

    @listener("user_created", "password_changed")
    async def send_email_handler(email: str, message: str) -> None:
        sent.put((email, message))

    @post("/users")
    async def create_user(request: Request[Any, Any, Any]) -> None:
        request.app.emit("user_created", email="adam", message="welcome")
        request.app.emit("password_changed", email="adam", message="changed")

    async with application(bus, create_user, listeners=[send_email_handler]) as client:
        await client.post("/users")
        assert sorted(await sent.take(2)) == [("adam", "changed"), ("adam", "welcome")]


async def test_each_of_two_listeners_gets_the_arguments_that_it_names_and_the_rest(bus: pgbus.Bus) -> None:
    """L3"""
    heard: Inbox[tuple[str, str, dict[str, Any]]] = Inbox()

    @listener("user_deleted")
    async def send_farewell_email_handler(email: str, **kwargs: Any) -> None:
        heard.put(("farewell", email, kwargs))

    @listener("user_deleted")
    async def notify_customer_support(reason: str, **kwargs: Any) -> None:
        heard.put(("support", reason, kwargs))

    @post("/delete")
    async def delete(request: Request[Any, Any, Any]) -> None:
        request.app.emit("user_deleted", email="adam", reason="deleted")

    listeners = [send_farewell_email_handler, notify_customer_support]
    async with application(bus, delete, listeners=listeners) as client:
        await client.post("/delete")
        assert sorted(await heard.take(2), key=lambda one: one[0]) == [
            ("farewell", "adam", {"reason": "deleted"}),
            ("support", "deleted", {"email": "adam"}),
        ]


async def test_a_failing_listener_is_retried_and_dead_lettered_alone(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    """L3, with a failure: also a CancelledError is one, and harms nobody else."""
    heard: Inbox[str] = Inbox()

    @durable("user_deleted", retry=QUICK_RETRY)
    async def fails(email: str) -> None:
        raise ValueError("no such mailbox")

    @durable("user_deleted", retry=QUICK_RETRY)
    async def is_cancelled(email: str) -> None:
        raise asyncio.CancelledError

    @durable("user_deleted", retry=QUICK_RETRY)
    def exits(email: str) -> None:
        raise SystemExit(email)

    @listener("user_deleted")
    def succeeds(email: str) -> None:
        heard.put(email)

    @post("/delete")
    async def delete(request: Request[Any, Any, Any]) -> None:
        request.app.emit("user_deleted", email="adam")

    async with application(bus, delete, listeners=[fails, is_cancelled, exits, succeeds]) as client:
        assert (await client.post("/delete")).status_code == 201

        async def are_dead() -> bool:
            return len(await dead_letters(connection)) == 3

        await eventually(are_dead)
        assert (await client.post("/delete")).status_code == 201
        await heard.take(2)
    found = await dead_letters(connection)
    assert found["fails"] == (3, "ValueError: no such mailbox")
    assert found["is_cancelled"][0] == found["exits"][0] == 3
    assert heard.items == ["adam", "adam"]


async def test_an_argument_that_a_listener_does_not_take_is_named_in_a_dead_letter(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    """L4"""
    called: list[str] = []

    @listener("user_deleted")
    async def send_farewell_email_handler(email: str) -> None:
        called.append(email)

    @listener("user_deleted")
    async def notify_customer_support(reason: str, count: int) -> None:
        called.append(reason)

    @post("/delete")
    async def delete(request: Request[Any, Any, Any]) -> None:
        request.app.emit("user_deleted", email="adam", reason="deleted")

    listeners = [send_farewell_email_handler, notify_customer_support]
    async with application(bus, delete, listeners=listeners) as client:
        assert (await client.post("/delete")).status_code == 201
    found = await dead_letters(connection)
    assert [found[name][0] for name in ("send_farewell_email_handler", "notify_customer_support")] == [1, 1]
    assert "unexpected keyword argument 'reason'" in found["send_farewell_email_handler"][1]
    assert "'email'" in found["notify_customer_support"][1] or "'count'" in found["notify_customer_support"][1]
    assert called == []


async def test_positional_and_keyword_arguments_reach_sync_and_async_listeners(bus: pgbus.Bus) -> None:
    """L5"""
    heard: Inbox[tuple[Any, ...]] = Inbox()

    @listener("everything")
    def in_a_thread(first: int, second: str = "none", *rest: float, keyword: bool, **others: Any) -> None:
        heard.put((first, second, rest, keyword, others, threading.current_thread() is threading.main_thread()))

    @listener("everything")
    async def on_the_loop(*args: Any, **kwargs: Any) -> None:
        heard.put((args, kwargs))

    @post("/")
    async def emit(request: Request[Any, Any, Any]) -> None:
        request.app.emit("everything", 1, "two", 3.0, 4.5, keyword=True, event="e", name="n")

    async with application(bus, emit, listeners=[in_a_thread, on_the_loop]) as client:
        assert (await client.post("/")).status_code == 201
        found = sorted(await heard.take(2), key=len)
    assert found[0] == ((1, "two", 3.0, 4.5), {"keyword": True, "event": "e", "name": "n"})
    assert found[1] == (1, "two", (3.0, 4.5), True, {"event": "e", "name": "n"}, False)


async def test_arguments_arrive_as_what_the_listener_is_annotated_with(bus: pgbus.Bus) -> None:
    """L7"""
    heard: Inbox[Any] = Inbox()

    @listener("user_created")
    async def welcome(user: User, at: datetime, tags: set[str], plain, none: int | None = None) -> None:  # type: ignore[no-untyped-def]
        heard.put((user, at, tags, plain, none))

    @post("/users")
    async def create_user(data: JSONBody[User], request: Request[Any, Any, Any]) -> User:
        request.app.emit("user_created", user=data, at=at, tags={"new"}, plain=data)
        return data

    at = datetime.now(UTC)
    user = User(uuid4(), "adam@example.com")
    async with application(bus, create_user, listeners=[welcome]) as client:
        answer = await client.post("/users", json={"id": str(user.id), "email": user.email})
        assert answer.json() == {"id": str(user.id), "email": user.email}
        assert await heard.take(1) == [(user, at, {"new"}, answer.json(), None)]


async def test_an_argument_that_does_not_fit_its_annotation_is_a_dead_letter_at_once(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    @listener("counted")
    async def count(number: int) -> None: ...

    @post("/")
    async def emit(request: Request[Any, Any, Any]) -> None:
        request.app.emit("counted", number="many")

    async with application(bus, emit, listeners=[count]) as client:
        await client.post("/")
    attempts, error = (await dead_letters(connection))["count"]
    assert attempts == 1
    assert "'number' does not fit" in error


async def test_what_another_service_publishes_reaches_a_listener_by_name(bus: pgbus.Bus) -> None:
    heard: Inbox[tuple[str, int]] = Inbox()

    @listener("orders.placed")
    async def pack(item: str, count: int = 1) -> None:
        heard.put((item, count))

    async with application(bus, listeners=[pack]):
        await bus.publish({"item": "pear"}, topic="orders.placed")
        assert await heard.take(1) == [("pear", 1)]


# ------------------------------------------------------------------------------------------------------------ refusals


async def test_unknown_events_are_refused_unless_the_option_allows_them(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    @listener("orders.*", "known")
    async def hear(**kwargs: Any) -> None: ...

    app = Litestar(listeners=[hear], plugins=[PgBusPlugin(bus)])
    async with AsyncTestClient(app):
        app.emit("known")
        app.emit("orders.placed")
        with pytest.raises(ImproperlyConfiguredException, match="for event ID: other"):
            app.emit("other")
    lenient = Litestar(listeners=[hear], plugins=[PgBusPlugin(bus, allow_unknown=True)])
    async with AsyncTestClient(lenient):
        lenient.emit("other")
    topics = [row["topic"] for row in await connection.fetch("SELECT topic FROM pgbus.events ORDER BY topic")]
    assert topics == ["known", "orders.placed", "other"]


async def test_emit_raises_runtimeerror_before_the_start_and_after_the_end(bus: pgbus.Bus) -> None:
    @listener("known")
    async def hear() -> None: ...

    app = Litestar(listeners=[hear], plugins=[PgBusPlugin(bus)])
    with pytest.raises(RuntimeError, match="Emitter not initialized"):
        app.emit("known")
    async with AsyncTestClient(app):
        app.emit("known")
    with pytest.raises(RuntimeError, match="Emitter not initialized"):
        app.emit("known")


@pytest.mark.parametrize("value", [object(), float("nan"), "\x00", {1: object()}, datetime(2026, 1, 1)])  # noqa: DTZ001
async def test_arguments_without_a_json_form_are_refused_where_they_are_emitted(bus: pgbus.Bus, value: object) -> None:
    @listener("known")
    async def hear(value: Any) -> None: ...

    app = Litestar(listeners=[hear], plugins=[PgBusPlugin(bus)])
    async with AsyncTestClient(app):
        with pytest.raises(InvalidEventError):
            app.emit("known", value)


async def test_an_application_may_be_made_twice_but_no_two_listeners_have_one_name(bus: pgbus.Bus) -> None:
    def make(suffix: str) -> Callable[..., Any]:
        async def hear() -> None: ...

        return hear

    first = listener("known")(make("a"))
    for _ in range(2):
        Litestar(listeners=[first, first], plugins=[PgBusPlugin(bus)])
    with pytest.raises(DuplicateListenerName):
        Litestar(listeners=[listener("known")(make("b"))], plugins=[PgBusPlugin(bus)])


@pytest.mark.parametrize("event_id", ["with space", "", "a..b"])
def test_event_ids_are_topics(bus: pgbus.Bus, event_id: str) -> None:
    @listener(event_id)
    async def hear() -> None: ...

    with pytest.raises(InvalidEventError, match="is not a pattern"):
        Litestar(listeners=[hear], plugins=[PgBusPlugin(bus)])


def test_a_listener_that_wraps_its_function_in_its_own_way_is_told_what_to_do(bus: pgbus.Bus) -> None:
    class Own(EventListener):
        @staticmethod
        def wrap_in_error_handler(fn: Any) -> Any:
            return print

    with pytest.raises(ConfigurationError, match=r"decorate it with pgbus\.contrib\.litestar\.listener"):
        Litestar(listeners=[Own("known")(print)], plugins=[PgBusPlugin(bus)])


def test_an_application_that_does_not_run_on_asyncio_is_refused(bus: pgbus.Bus) -> None:
    """Such as one of a test client with backend="trio"."""
    app = Litestar(plugins=[PgBusPlugin(bus)])
    with pytest.raises(ConfigurationError, match="pgbus needs asyncio"):
        app.event_emitter.__aenter__().send(None)
