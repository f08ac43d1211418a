"""The public API in all its forms. Nothing runs: mypy checks this file, and that the types are these."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, assert_type
from uuid import UUID

import asyncpg
import attrs
import msgspec
import psycopg
import pydantic
from sqlalchemy import Connection as SyncConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

import pgbus
from pgbus import migrate
from pgbus.admin import Admin, BusStatus, DeadFilter, DeadLetter, EventFilter, EventRecord, ListenerStatus
from pgbus.bus import make_worker
from pgbus.contrib.django import uses_django_db
from pgbus.embedded import EmbeddedPostgres
from pgbus.listeners.listener import Listener
from pgbus.telemetry import Happening, Settled
from pgbus.testing import Attempt, BusMocker, BusUnderTest, MockResult, bus_mocker, deliver_now, deliver_now_sync

# ------------------------------------------------------------------------------------------------------ event classes


@pgbus.event("orders.placed")
@dataclass
class Placed:
    order_id: int


@pgbus.event("orders.placed.online")
@dataclass
class PlacedOnline(Placed):
    url: str


@pgbus.event("orders.paid")
class Paid(msgspec.Struct):
    order_id: int


@pgbus.event("orders.packed")
@attrs.define
class Packed:
    order_id: int


@pgbus.event("orders.shipped")
class Shipped(pydantic.BaseModel):
    order_id: int


assert_type(Placed(1), Placed)
assert_type(PlacedOnline(1, "https://example.com").order_id, int)
assert_type(Paid(1), Paid)
assert_type(Packed(1), Packed)
assert_type(Shipped(order_id=1), Shipped)

# ---------------------------------------------------------------------------------------------------------- the bus

bus = pgbus.create()
assert_type(bus, pgbus.Bus)
assert_type(pgbus.create("postgresql://localhost/shop", namespace="events", lease=30.0), pgbus.Bus)
assert_type(bus.config, pgbus.Config)
assert_type(bus.listeners, Sequence[Listener])


@bus.listener()
async def one_event(event: Placed) -> None: ...


@bus.listener(Placed, Paid, "orders.*", name="many", start="beginning", concurrency=2, retry=3, timeout=1.5)
async def many_events(event: Placed | Paid, context: pgbus.Context) -> None:
    assert_type(context.event, pgbus.EventMessage)
    assert_type(context.events, Sequence[pgbus.EventMessage])
    assert_type(context.attempt, int)
    assert_type(context.listener_name, str)
    assert_type(await context.publish(Paid(event.order_id), key="7"), pgbus.EventMessage)
    await context.publish(Paid(event.order_id), kee="7")  # type: ignore[call-arg] # there is no such option


@bus.listener(Placed, name="in order", ordered=True, on_poison="block", start=datetime(2026, 1, 1, tzinfo=UTC))
def in_a_thread(event: Placed, context: pgbus.Context) -> None:
    assert_type(context.publish_sync(Paid(event.order_id)), pgbus.EventMessage)
    raise pgbus.Retry("not yet", after=5.0) if context.attempt == 1 else pgbus.Dead("never")


@bus.listener(
    "orders.**", name="batch", batch=True, batch_size=100, start=17, retry=pgbus.RetryPolicy(max_attempts=5, jitter=1.0)
)
async def a_batch(events: list[dict[str, Any]]) -> None: ...


@bus.listener(Placed, name="asyncpg", transactional=True)
async def with_asyncpg(event: Placed, connection: asyncpg.Connection) -> None: ...


@bus.listener(Placed, name="async session", transactional=True)
async def with_async_session(event: Placed, session: AsyncSession) -> None: ...


@bus.listener(Placed, name="session", transactional=True)
def with_session(event: Placed, session: Session) -> None: ...


# A decorated handler is still the function that it was.
async def handlers_are_functions(context: pgbus.Context) -> None:
    assert_type(await one_event(event=Placed(1)), None)
    assert_type(await a_batch([{}]), None)
    assert_type(in_a_thread(Placed(1), context=context), None)


# What a handler takes fits what it is declared for: the class, a parent, a union, the stored event, or it says nothing.


@bus.listener(PlacedOnline)
async def of_a_child(event: Placed) -> None: ...


@bus.listener(Placed)
async def of_one_of_several(event: Placed | Paid) -> None: ...


@bus.listener(Placed)
async def of_anything(event: Any) -> None: ...


@bus.listener(Placed)
async def of_the_stored_event(event: pgbus.EventMessage) -> None: ...


@bus.listener(Placed)
async def context_first(context: pgbus.Context, event: Placed) -> None: ...


@bus.listener(PlacedOnline, batch=True)
async def of_children(events: list[Placed]) -> None: ...


@bus.listener(Placed, batch=True)
async def in_a_sequence(context: pgbus.Context, events: Sequence[Placed]) -> None: ...


@bus.listener(Placed)  # type: ignore[arg-type] # another event
async def of_another_event(event: Paid) -> None: ...


@bus.listener(Placed)  # type: ignore[arg-type] # not each Placed is one
async def of_a_parent(event: PlacedOnline) -> None: ...


@bus.listener(Placed)  # type: ignore[arg-type] # one event at a time
async def of_a_list(event: list[Placed]) -> None: ...


@bus.listener(Placed, batch=True)  # type: ignore[type-var] # a list
async def of_one(event: Placed) -> None: ...


@bus.listener("orders.*", batch=True)  # type: ignore[type-var] # a list
async def of_one_of_a_topic(event: dict[str, Any]) -> None: ...


# ------------------------------------------------------------------------------------------------ hooks, middleware


@bus.client.before_event_sent()
def before_event_sent(event_message: pgbus.EventMessage) -> None:
    event_message.kwargs["n"] = 1
    event_message.headers = {"a": "b"}
    event_message.key = "k"


@bus.client.after_rpc_execution(before_plugins=True)
async def after_rpc_execution(rpc_message: pgbus.RpcMessage, result_message: pgbus.ResultMessage) -> None:
    assert_type(rpc_message.kwargs, dict[str, Any])
    assert_type(result_message.error, bool)


@bus.middleware
async def middleware(context: pgbus.Context | pgbus.CallContext, call_next: Callable[[], Awaitable[Any]]) -> Any:
    if isinstance(context, pgbus.CallContext):
        assert_type(context.arguments, dict[str, object])
    return await call_next()


def on_stop(client: pgbus.BusClient) -> None:
    bus.client.on_stop(on_stop, before_plugins=True)


bus.client.on_stop(7)  # type: ignore[call-overload] # a function

bus.listener("orders.*", start="tomorrow")  # type: ignore[call-overload] # "now" or "beginning"
bus.listener("orders.*", on_poison="ignore")  # type: ignore[call-overload] # "dead" or "block"
bus.listener(7)  # type: ignore[call-overload] # a class, a topic or a pattern
bus.listener("orders.*", colour="red")  # type: ignore[call-overload] # there is no such option

# -------------------------------------------------------------------------------------------------------- publishing


async def publish(
    asyncpg_connection: asyncpg.Connection,
    psycopg_connection: psycopg.AsyncConnection,
    session: AsyncSession,
    connection: AsyncConnection,
) -> None:
    published = await bus.publish(Placed(1))
    assert_type(published, pgbus.EventMessage)
    assert_type(published.event_id, UUID)
    assert_type(published.topic, str)
    assert_type(published.key, str | None)
    assert_type(published.position, int | None)
    assert_type(published.published_at, datetime | None)
    await bus.publish({"order_id": 1}, topic="orders.placed", key="7", headers={"source": "test"})
    await bus.publish(Placed(1), delay=60.0, dedup_key="once", event_id=published.event_id)
    await bus.publish(Placed(1), deliver_at=datetime.now(UTC), event_id=str(published.event_id))
    for using in (asyncpg_connection, psycopg_connection, session, connection):
        await bus.publish(Placed(1), using=using)
        assert_type(await bus.publish_many([Placed(1), Paid(1)], using=using), list[UUID])
    assert_type(await bus.publish_many(({"n": n} for n in range(3)), topic="numbers"), list[UUID])
    assert_type(await bus.cancel(published.event_id), bool)
    async with bus as entered:
        assert_type(entered, pgbus.Bus)
    await bus.close()
    await bus.publish(Placed(1), "orders.placed")  # type: ignore[call-arg] # options are named


async def typed_results() -> None:
    assert_type(await bus.call("numbers.add", {"a": 1}, returns=int), int)
    assert_type(bus.call_sync("numbers.add", returns=list[int]), list[int])
    assert_type(await bus.call("numbers.add"), Any)
    await bus.publish(Placed(1), kee="7")  # type: ignore[call-arg] # there is no such option
    bus.publish_sync(Placed(1), delay="1")  # type: ignore[arg-type] # seconds


def publish_sync(psycopg_connection: psycopg.Connection, session: Session, connection: SyncConnection) -> None:
    assert_type(bus.publish_sync(Placed(1)), pgbus.EventMessage)
    for using in (psycopg_connection, session, connection):
        bus.publish_sync(Placed(1), using=using)
    assert_type(bus.publish_many_sync([Placed(1)]), list[UUID])
    assert_type(bus.cancel_sync("00000000-0000-7000-8000-000000000000"), bool)
    bus.close_sync()


async def bind(session: AsyncSession, blocking: Session) -> None:
    bound = bus.bind(session)
    assert_type(bound, pgbus.BoundBus)
    assert_type(await bound.publish(Placed(1), key="7"), pgbus.EventMessage)
    assert_type(await bound.publish_many([Placed(1)]), list[UUID])
    assert_type(await bound.fire("auth.user_created", {"username": "ada"}, delay=1.0), pgbus.EventMessage)
    assert_type(await bound.call("numbers.add", returns=int), int)
    assert_type(await bound.cancel("00000000-0000-7000-8000-000000000000"), bool)
    assert_type(bus.bind(blocking).publish_sync(Placed(1)), pgbus.EventMessage)
    assert_type(bus.bind(blocking).fire_sync("auth.user_created"), pgbus.EventMessage)
    await bound.publish(Placed(1), using=session)  # type: ignore[call-arg] # it has one
    await bound.publish(Placed(1), kee="7")  # type: ignore[call-arg] # there is no such option
    await bound.fire("auth.user_created", dealy=1.0)  # type: ignore[call-arg] # there is no such option


def scoped(session: scoped_session[Session], awaited: async_scoped_session[AsyncSession]) -> None:
    assert_type(bus.bind(session), pgbus.BoundBus)
    assert_type(bus.bind(awaited), pgbus.BoundBus)


async def unknown_using(engine: AsyncEngine, pool: asyncpg.Pool, session: AsyncSession, blocking: Session) -> None:
    await bus.publish(Placed(1), using=engine)  # type: ignore[arg-type] # a connection of it
    await bus.publish(Placed(1), using=pool)  # type: ignore[arg-type] # a connection of it
    await bus.publish(Placed(1), using="default")  # the alias of a database of Django's
    await bus.publish(Placed(1), using=blocking)  # type: ignore[arg-type] # an async session
    bus.publish_sync(Placed(1), using=session)  # type: ignore[arg-type] # a blocking session
    bus.bind(engine)  # type: ignore[arg-type] # a connection of it


# ------------------------------------------------------------------------------------------------ workers, operators


async def work() -> None:
    def observe(happening: Happening) -> None:
        if isinstance(happening, Settled):
            assert_type(happening.done, int)

    stop_observing = bus.telemetry.observe(observe)
    worker = make_worker(bus, only=["many"], skip=["batch"])
    await worker.run()
    await worker.ready.wait()
    worker.request_stop()
    await worker.stop()
    assert_type(worker.leads, bool)
    stop_observing()


class AuthApi(pgbus.Api):
    user_created = pgbus.Event(parameters=("username", pgbus.Parameter("age", int | None)))
    user_deleted = pgbus.Event(parameters=("username"))
    anything = pgbus.Event(parameters=[pgbus.WildcardParameter()])

    class Meta:
        name = "auth"


async def api_classes(connection: asyncpg.Connection) -> None:
    bus.client.register_api(AuthApi())
    assert_type(bus.auth, pgbus.BusPath)
    assert_type(bus.auth.user_created.fire(username="adam", bus_options={"key": "adam"}), pgbus.EventMessage)
    assert_type(await bus.auth.user_created.fire_async(username="adam", using=connection), pgbus.EventMessage)
    bus.auth.user_created.listen(print, listener_name="print", on_error=pgbus.OnError.ACKNOWLEDGE_AND_LOG)
    await bus.auth.user_created.listen_async(print)
    assert_type(bus.auth.check_password(username="adam"), Any)
    assert_type(await bus.auth.check_password.call_async(username="adam", bus_options={"timeout": 1.0}), Any)
    await bus.client.lazy_load_now()
    await bus.client.start_worker()
    bus.client.request_shutdown()
    await bus.client.raise_errors()
    await bus.client.stop_worker()
    await bus.client.close_async()


@uses_django_db
def total_of(url: str) -> int:
    return len(url)


assert_type(total_of("/"), int)


def run_a_service() -> None:
    assert_type(bus.client.run_forever(), int)
    bus.client.close()


async def test_it(under_test: BusUnderTest, connection: asyncpg.Connection, session: Session) -> None:
    assert_type(await under_test.deliver_now(using=connection, raise_errors=False), list[Attempt])
    assert_type(deliver_now_sync(bus, using=session, timeout=1.0), list[Attempt])
    (attempt,) = await deliver_now(bus)
    assert_type((attempt.event, attempt.attempt, attempt.error), tuple[pgbus.EventMessage, int, str | None])
    with BusMocker(bus, require_mocking=False) as mock:
        mock.mockRpcCall("auth.check_password", result=True)
        mock.assertEventFired("auth.user_created", times=1)
        assert_type(mock.get_event_messages("auth.user_created"), list[pgbus.EventMessage])
        assert_type(mock.get_rpc_messages(), list[pgbus.RpcMessage])
        assert_type(mock.event_names_fired, list[str])


@bus_mocker(bus)
def test_that(mock: MockResult) -> None:
    mock.mock_event_firing("auth.user_created")


async def operate() -> None:
    async with Admin.connect(pgbus.Config.load({"dsn": "postgresql://localhost/shop"})) as admin:
        assert_type(await admin.status(), BusStatus)
        assert_type(await admin.listeners.list(), tuple[ListenerStatus, ...])
        assert_type(await admin.find_events(EventFilter(topic="orders.*"), limit=10), list[EventRecord])
        assert_type(await admin.dead_letters.find(DeadFilter(listener_name="many")), list[DeadLetter])
        assert_type(await admin.dead_letters.retry(DeadFilter(ids=(1, 2))), list[int])
        assert_type(await admin.listeners.reset("many", to="beginning"), int)
        async for record in admin.follow():
            assert_type(record, EventRecord)


async def declare_tasks(bus: pgbus.Bus) -> None:
    @bus.client.every(minutes=5, missed="skip")
    async def refresh(client: pgbus.BusClient) -> int:
        return 1

    @bus.client.schedule("@daily", timezone="Europe/Berlin")
    def clean(run: pgbus.TaskContext) -> str:
        return run.schedule_name

    assert_type(await refresh(bus.client), int)
    assert_type(bus.client.features, frozenset[str])


def upgrade() -> None:
    with EmbeddedPostgres(settings={"fsync": "off"}, listen=True) as server:
        assert_type(server, EmbeddedPostgres)
        migrate.upgrade(server.dsn(), namespace="events")
        assert_type(migrate.current(server.dsn()), str | None)
        assert_type(migrate.head(), str)
        assert_type(migrate.sql(start=None), str)


def errors(error: pgbus.PgbusError) -> str:
    match error:
        case pgbus.UnsendableArguments():
            return assert_type(error.procedure, str) + assert_type(error.field, str)
        case pgbus.ValidationError():
            return assert_type(error.path, str)
        case pgbus.InvalidEventError():
            return assert_type(error.field, str)
        case pgbus.DuplicateListenerName():
            return assert_type(error.listener_name, str)
        case _:
            return str(error)


# ------------------------------------------------------------------------------------------------------------- schemas


async def look_at_schemas(bus: pgbus.Bus) -> None:
    await bus.schema.ensure_loaded_from_bus()
    assert_type(bus.schema.api_names, list[str])
    assert_type(bus.schema.events, list[tuple[str, str]])
    assert_type(bus.schema.get_rpc_schema("auth", "check_password"), dict[str, Any])
    assert_type(bus.auth.check_password.parameter_schema, dict[str, Any])
    bus.auth.check_password.validate_parameters({"username": "a"})
    bus.schema.load_local("schemas/")
    bus.schema.save_local()
