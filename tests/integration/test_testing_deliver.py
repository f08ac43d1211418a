"""`deliver_now`: the listeners of what a test published, inside its transaction or on what it committed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import pgbus
from pgbus import EventMessage
from pgbus.testing import Attempt, deliver_now, deliver_now_sync
from tests.conftest import Connect
from tests.support.workers import Inbox, open_bus, running


@pytest.fixture
async def connection(database: str, connect: Connect) -> asyncpg.Connection:
    opened = await connect(database)
    await opened.execute("CREATE TABLE notes (note text)")
    return opened


@pytest.fixture
async def outside(database: str, connect: Connect) -> asyncpg.Connection:
    """Someone else's connection."""
    return await connect(database)


@pgbus.event("orders")
@dataclass
class OrderEvent:
    order_id: int


@pgbus.event("orders.placed")
@dataclass
class OrderPlaced(OrderEvent):
    pass


def summary(attempts: list[Attempt]) -> list[tuple[Any, ...]]:
    return [(one.listener_name, one.event.topic, one.attempt, one.outcome) for one in attempts]


async def rows_left(connection: asyncpg.Connection) -> int:
    found: int = await connection.fetchval(
        "SELECT (SELECT count(*) FROM pgbus.outbox) + (SELECT count(*) FROM pgbus.events) + "
        "(SELECT count(*) FROM pgbus.deliveries) + (SELECT count(*) FROM pgbus.listeners) + "
        "(SELECT count(*) FROM pgbus.history) + (SELECT count(*) FROM notes)"
    )
    return found


# ---------------------------------------------------------------------------------------- in a transaction, and gone


async def test_what_a_transaction_published_is_delivered_in_it_and_nobody_else_ever_sees_it(
    bus: pgbus.Bus, connection: asyncpg.Connection, outside: asyncpg.Connection
) -> None:
    @bus.listener(name="confirm")
    async def confirm(order: OrderPlaced, context: pgbus.Context) -> None:
        assert (order, context.attempt, context.connection) == (OrderPlaced(1), 1, None)
        await connection.execute("INSERT INTO notes VALUES ('confirmed')")

    transaction = connection.transaction()
    await transaction.start()
    published = await bus.publish(OrderPlaced(1), using=connection, key="k", headers={"a": "b"})
    (attempt,) = await deliver_now(bus, using=connection)
    assert await connection.fetchval("SELECT note FROM notes") == "confirmed"
    assert await rows_left(outside) == 0
    await transaction.rollback()
    assert await rows_left(outside) == 0
    assert (attempt.listener_name, attempt.attempt, attempt.outcome, attempt.error) == ("confirm", 1, "done", None)
    event = attempt.event
    assert (event.event_id, event.topic, event.key) == (published.event_id, "orders.placed", "k")
    assert (event.payload, event.headers, event.ancestors) == ({"order_id": 1}, {"a": "b"}, ["orders"])
    assert event.position is not None
    assert event.published_at is not None


async def test_events_of_handlers_follow_until_nothing_is_left(
    bus: pgbus.Bus, connection: asyncpg.Connection, outside: asyncpg.Connection
) -> None:
    @bus.listener("count", name="down")
    async def down(number: int, context: pgbus.Context) -> None:
        if number:
            await context.publish(number - 1, topic="count")  # not `using`, and yet it joins

    @bus.listener("count", name="threaded")
    def threaded(number: int, context: pgbus.Context) -> None:
        if number == 2:
            bus.publish_sync("from a thread", topic="done")
            context.publish_sync("again", topic="done")

    @bus.listener("done", name="finish")
    async def finish(word: str) -> None:
        pass

    async with connection.transaction():
        await bus.publish(2, topic="count", using=connection)
        attempts = await deliver_now(bus, using=connection)
        assert await deliver_now(bus, using=connection) == []
        assert await rows_left(outside) == 0
    assert [(one.listener_name, one.event.payload) for one in attempts] == [
        ("down", 2), ("threaded", 2), ("down", 1), ("threaded", 1), ("finish", "from a thread"), ("finish", "again"),
        ("down", 0), ("threaded", 0),
    ]  # fmt: skip


async def test_listeners_are_found_by_the_real_patterns(bus: pgbus.Bus, connection: asyncpg.Connection) -> None:
    for number, patterns in enumerate([("orders.*",), ("orders",), ("**",), ("bills.**", "orders.placed"), ("x",)]):

        @bus.listener(*patterns, name=f"{number}")
        async def handle(event: EventMessage) -> None:
            pass

    @bus.listener(name="parent class")
    async def parent(event: OrderEvent) -> None:
        assert type(event) is OrderPlaced

    async with connection.transaction():
        await bus.publish(OrderPlaced(1), using=connection)
        attempts = await deliver_now(bus, using=connection)
    # "orders" is the topic of the parent class.
    assert [one.listener_name for one in attempts] == ["0", "1", "2", "3", "parent class"]


async def test_events_of_savepoints_count_and_those_of_others_do_not(
    bus: pgbus.Bus, connection: asyncpg.Connection, outside: asyncpg.Connection
) -> None:
    @bus.listener("n", name="all")
    async def handle(number: int) -> None:
        pass

    await bus.publish(0, topic="n")  # committed before
    async with connection.transaction():
        await bus.publish(1, topic="n", using=connection)
        async with connection.transaction():
            await bus.publish(2, topic="n", using=connection)
        rolled_back = connection.transaction()
        await rolled_back.start()
        await bus.publish(3, topic="n", using=connection)
        await rolled_back.rollback()
        with pytest.warns(pgbus.NoTransactionWarning):
            await bus.publish(4, topic="n", using=outside)  # committed in between
        async with outside.transaction():
            await bus.publish(5, topic="n", using=outside)
            await bus.publish(6, topic="n", using=connection)
            attempts = await deliver_now(bus, using=connection)
    assert [one.event.payload for one in attempts] == [1, 2, 6]
    assert await outside.fetchval("SELECT count(*) FROM pgbus.outbox") == 3


async def test_what_is_scheduled_for_later_stays(bus: pgbus.Bus, connection: asyncpg.Connection) -> None:
    @bus.listener("n", name="all")
    async def handle(number: int) -> None:
        pass

    async with connection.transaction():
        later = await bus.publish(1, topic="n", using=connection, delay=3600)
        assert await deliver_now(bus, using=connection) == []
        assert await bus.cancel(later.event_id, using=connection)


async def test_a_handler_cancels_what_the_transaction_has_scheduled(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    @bus.listener("orders.paid", name="paid")
    async def paid(reminder: str) -> None:
        assert await bus.cancel(reminder)

    async with connection.transaction():
        reminder = await bus.publish({}, topic="orders.unpaid", using=connection, delay=3600)
        await bus.publish(reminder.id, topic="orders.paid", using=connection)
        await deliver_now(bus, using=connection)
        assert await connection.fetchval("SELECT count(*) FROM pgbus.outbox") == 0


async def test_a_handlers_error_comes_through_at_once_and_leaves_the_transaction_usable(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    called: list[int] = []

    @bus.listener("n", name="fails", transactional=True)
    async def fails(number: int, own: asyncpg.Connection) -> None:
        called.append(number)
        await own.execute("INSERT INTO notes VALUES ('lost')")
        await own.execute("SELECT 1 / 0")

    async with connection.transaction():
        await bus.publish_many([1, 2], topic="n", using=connection)
        with pytest.raises(asyncpg.DivisionByZeroError):
            await deliver_now(bus, using=connection)
        assert await connection.fetchval("SELECT count(*) FROM notes") == 0
    assert called == [1]
    await bus.publish(1, topic="free")  # the bus's own way is open again
    assert await connection.fetchval("SELECT count(*) FROM pgbus.outbox WHERE topic = 'free'") == 1


async def test_collected_failures_are_tried_again_as_the_policy_says_without_waiting(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    @bus.listener("n", name="third time", retry=5)
    async def third_time(number: int, context: pgbus.Context) -> None:
        if context.attempt == 1:
            raise ValueError("first")
        if context.attempt == 2:
            raise pgbus.Retry("not yet", after=3600)

    @bus.listener("n", name="never", retry=2)
    def never(number: int) -> None:
        raise ValueError("never")

    @bus.listener("n", name="gives up")
    async def gives_up(number: int) -> None:
        raise pgbus.Dead("hopeless")

    @bus.listener("n", name="unfit")
    async def unfit(number: dict[str, int]) -> None:
        raise AssertionError("it cannot be called")

    @bus.listener("n", name="slow", timeout=0.01, retry=1)
    async def slow(number: int) -> None:
        await asyncio.Event().wait()

    async with connection.transaction():
        await bus.publish(1, topic="n", using=connection)
        attempts = await deliver_now(bus, using=connection, raise_errors=False)
    assert [(one.listener_name, one.attempt, one.outcome) for one in attempts] == [
        ("third time", 1, "retry"), ("third time", 2, "retry"), ("third time", 3, "done"), ("never", 1, "retry"),
        ("never", 2, "dead"), ("gives up", 1, "dead"), ("unfit", 1, "dead"), ("slow", 1, "dead"),
    ]  # fmt: skip
    errors = [one.error or "" for one in attempts if one.outcome != "done"]
    assert errors[:5] == ["ValueError: first", "not yet", "ValueError: never", "ValueError: never", "hopeless"]
    assert "UnhandledEventError" in errors[5]
    assert "HandlerTimeoutError" in errors[6]


@pytest.mark.parametrize("error", [pgbus.Retry("later", after=60), pgbus.Dead("no")])
async def test_a_handler_that_asks_for_a_retry_or_gives_up_raises_too(
    bus: pgbus.Bus, connection: asyncpg.Connection, error: Exception
) -> None:
    @bus.listener("n", name="asks")
    async def asks(number: int) -> None:
        raise error

    async with connection.transaction():
        await bus.publish(1, topic="n", using=connection)
        with pytest.raises(type(error)):
            await deliver_now(bus, using=connection)


async def test_an_ordered_listener_hears_its_events_in_order_and_blocks_a_key(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    @bus.listener("n", name="ordered", ordered=True, on_poison="block", retry=1)
    async def ordered(number: int) -> None:
        if number == 2:
            raise ValueError(number)

    async with connection.transaction():
        for number, key in enumerate("abaabc", 1):
            await bus.publish(number, topic="n", key=key, using=connection)
        await bus.publish(2, topic="n", key="a", using=connection)
        await bus.publish(8, topic="n", key="a", using=connection)
        attempts = await deliver_now(bus, using=connection, raise_errors=False)
    assert [(one.event.payload, one.outcome) for one in attempts] == [
        (1, "done"), (2, "dead"), (3, "done"), (4, "done"), (5, "blocked"), (6, "done"), (2, "dead"), (8, "blocked"),
    ]  # fmt: skip


async def test_a_batch_is_one_call_and_after_a_failure_each_event_has_its_own(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    calls: list[list[int]] = []

    @bus.listener("n", name="batches", batch=True, batch_size=3, retry=1)
    async def batches(numbers: list[int]) -> None:
        calls.append(numbers)
        if 5 in numbers:
            raise ValueError(5)

    async with connection.transaction():
        await bus.publish_many([1, 2, "unfit", 3, 4, 5, 6], topic="n", using=connection)
        attempts = await deliver_now(bus, using=connection, raise_errors=False)
    assert calls == [[1, 2, 3], [4, 5, 6], [4], [5], [6]]
    assert [(one.event.payload, one.outcome) for one in attempts] == [
        ("unfit", "dead"), (1, "done"), (2, "done"), (3, "done"), (4, "done"), (5, "dead"), (6, "done"),
    ]  # fmt: skip


async def test_api_classes_are_delivered_too(bus: pgbus.Bus, connection: asyncpg.Connection) -> None:
    class AuthApi(pgbus.Api):
        user_registered = pgbus.Event(parameters=("username", pgbus.Parameter("admin", bool, default=False)))

        class Meta:
            name = "auth"

    heard: list[Any] = []
    bus.client.register_api(AuthApi())

    def declare(client: pgbus.BusClient) -> None:
        bus.auth.user_registered.listen(
            lambda event, username, admin: heard.append((event.api_name, username, admin)), listener_name="greet"
        )

    bus.client.on_start(declare)  # type: ignore[no-untyped-call,unused-ignore]
    async with connection.transaction():
        await bus.auth.user_registered.fire_async(username="ada", using=connection)
        attempts = await deliver_now(bus, using=connection)
    assert heard == [("auth", "ada", False)]
    assert [one.listener_name for one in attempts] == ["greet"]


async def test_plugins_are_not_told_of_a_start_that_has_no_end(database: str, connection: asyncpg.Connection) -> None:
    class Greeting(pgbus.Plugin):
        async def before_worker_start(self) -> None:
            raise AssertionError("no worker starts")

        async def before_event_sent(self, event_message: EventMessage) -> None:
            event_message.payload = "hello"

    async with open_bus(database, plugins=[Greeting()]) as bus:

        @bus.client.on_start()
        def declare() -> None:
            @bus.listener("greeting", name="greets")
            def greet(text: str) -> None:
                pass

        async with connection.transaction():
            await bus.publish("", topic="greeting", using=connection)
            (attempt,) = await deliver_now(bus, using=connection)
    assert (attempt.listener_name, attempt.event.payload) == ("greets", "hello")


async def test_without_a_transaction_it_says_so(bus: pgbus.Bus, connection: asyncpg.Connection) -> None:
    with pytest.raises(pgbus.ConnectionUnusableError, match="in no transaction"):
        await deliver_now(bus, using=connection)


async def test_a_bus_delivers_in_one_transaction_at_a_time(bus: pgbus.Bus, connection: asyncpg.Connection) -> None:
    @bus.listener("n", name="again")
    async def again(number: int) -> None:
        await deliver_now(bus, using=connection)

    async with connection.transaction():
        await bus.publish(1, topic="n", using=connection)
        with pytest.raises(pgbus.ConnectionUnusableError, match="already"):
            await deliver_now(bus, using=connection)


async def test_a_worker_beside_an_open_rehearsal_goes_on(
    bus: pgbus.Bus, database: str, connection: asyncpg.Connection
) -> None:
    inbox: Inbox[int] = Inbox()

    def declare(bus: pgbus.Bus) -> None:
        @bus.listener("n", name="hears", ordered=True)
        async def hears(number: int) -> None:
            inbox.put(number)

    declare(bus)
    async with open_bus(database) as other, connection.transaction():
        declare(other)
        await bus.publish(1, topic="n", using=connection)
        assert len(await deliver_now(bus, using=connection)) == 1
        async with running(other):
            await other.publish(2, topic="n")
            assert await inbox.take(2) == [1, 2]
            await bus.publish(3, topic="n", using=connection)
            assert len(await deliver_now(bus, using=connection)) == 1
    assert inbox.items == [1, 2, 3]


async def test_a_bus_that_runs_no_events_delivers_none(database: str, connection: asyncpg.Connection) -> None:
    async with open_bus(database, features=["rpcs"]) as bus, connection.transaction():

        @bus.listener("n", name="all")
        async def handle(number: int) -> None:
            raise AssertionError("it does not run events")

        await bus.publish(1, topic="n", using=connection)
        assert await deliver_now(bus, using=connection) == []


# ----------------------------------------------------------------------------------------- transactional handlers


def declare_asyncpg(bus: pgbus.Bus) -> None:
    @bus.listener("n", name="asyncpg", transactional=True)
    async def handle(number: int, own: asyncpg.Connection, context: pgbus.Context) -> None:
        assert context.connection is own
        await own.execute("INSERT INTO notes VALUES ('asyncpg')")
        await context.publish(number, topic="after")


def declare_session(bus: pgbus.Bus) -> None:
    @bus.listener("n", name="session", transactional=True)
    async def handle(number: int, session: AsyncSession, context: pgbus.Context) -> None:
        await session.execute(text("INSERT INTO notes VALUES ('session')"))
        await context.publish(number, topic="after")


def declare_after(bus: pgbus.Bus) -> None:
    @bus.listener("after", name="after")
    async def after(number: int) -> None:
        pass


async def test_a_transactional_handler_gets_the_tests_own_asyncpg_connection(
    bus: pgbus.Bus, connection: asyncpg.Connection, outside: asyncpg.Connection
) -> None:
    declare_asyncpg(bus)
    declare_after(bus)
    transaction = connection.transaction()
    await transaction.start()
    await bus.publish(1, topic="n", using=connection)
    assert [one.listener_name for one in await deliver_now(bus, using=connection)] == ["asyncpg", "after"]
    assert await connection.fetchval("SELECT note FROM notes") == "asyncpg"
    await transaction.rollback()
    assert await rows_left(outside) == 0


@pytest.mark.parametrize("face", ["session", "connection"])
async def test_through_sqlalchemy_handlers_get_a_session_or_the_drivers_connection(
    bus: pgbus.Bus, database: str, connection: asyncpg.Connection, outside: asyncpg.Connection, face: str
) -> None:
    declare_asyncpg(bus)
    declare_session(bus)
    declare_after(bus)
    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(database))
    async with engine.connect() as opened:
        using: Any = AsyncSession(opened) if face == "session" else opened
        await bus.publish(1, topic="n", using=using)
        attempts = await deliver_now(bus, using=using)
        notes = [row[0] for row in (await using.execute(text("SELECT note FROM notes ORDER BY 1"))).all()]
        await using.rollback()
        await using.close()
    await engine.dispose()
    assert [one.listener_name for one in attempts] == ["asyncpg", "session", "after", "after"]
    assert notes == ["asyncpg", "session"]
    assert await rows_left(outside) == 0


async def test_psycopgs_async_connection_delivers_too(
    bus: pgbus.Bus, database: str, connection: asyncpg.Connection, outside: asyncpg.Connection
) -> None:
    declare_after(bus)
    async with await psycopg.AsyncConnection.connect(database) as opened:
        published = await bus.publish({"ü": 1}, topic="after", using=opened)
        (attempt,) = await deliver_now(bus, using=opened, raise_errors=False)
        await opened.rollback()
    assert (attempt.event.event_id, attempt.event.payload) == (published.event_id, {"ü": 1})
    assert await rows_left(outside) == 0


@pytest.mark.parametrize("declare", [declare_session])
async def test_a_connection_that_is_not_what_a_handler_takes_is_refused(
    bus: pgbus.Bus, connection: asyncpg.Connection, declare: Any
) -> None:
    declare(bus)
    async with connection.transaction():
        await bus.publish(1, topic="n", using=connection)
        with pytest.raises(pgbus.ConnectionUnusableError, match=r"session writes in its event's.*AsyncSession"):
            await deliver_now(bus, using=connection)


# ----------------------------------------------------------------------------------------------- code that blocks


@pytest.fixture
def sync_bus(database: str) -> Iterator[pgbus.Bus]:
    made = pgbus.create(database)
    yield made
    made.close_sync()


@pytest.fixture
def notes(database: str) -> None:
    with psycopg.connect(database) as opened:
        opened.execute("CREATE TABLE notes (note text)")


def test_blocking_delivery_runs_plain_handlers_on_the_tests_own_thread(sync_bus: pgbus.Bus, database: str) -> None:
    bus = sync_bus
    threads: list[threading.Thread] = []

    @bus.listener("n", name="plain")
    def plain(number: int, context: pgbus.Context) -> None:
        threads.append(threading.current_thread())
        if number:
            bus.publish_sync(number - 1, topic="n")
            context.publish_sync(number, topic="m")

    @bus.listener("m", name="async")
    async def in_a_loop(number: int) -> None:
        await bus.publish("over", topic="end")

    with psycopg.connect(database) as connection:
        bus.publish_sync(1, topic="n", using=connection)
        attempts = deliver_now_sync(bus, using=connection)
        connection.rollback()
    assert [(one.listener_name, one.event.payload) for one in attempts] == [("plain", 1), ("plain", 0), ("async", 1)]
    assert set(threads) == {threading.current_thread()}
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM pgbus.outbox").fetchone() == (0,)


@pytest.mark.parametrize("face", ["session", "connection"])
def test_blocking_delivery_gives_transactional_handlers_the_tests_session(
    sync_bus: pgbus.Bus, database: str, notes: None, face: str
) -> None:
    @sync_bus.listener("n", name="writes", transactional=True)
    def writes(number: int, session: Session) -> None:
        session.execute(text("INSERT INTO notes VALUES ('kept')"))
        if number == 2:
            raise ValueError("undone")

    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(database))
    with engine.connect() as opened:
        using: Any = Session(opened) if face == "session" else opened
        sync_bus.publish_many_sync([1, 2, 3], topic="n", using=using)
        attempts = deliver_now_sync(sync_bus, using=using, raise_errors=False)
        kept = using.execute(text("SELECT count(*) FROM notes")).scalar()
        using.rollback()
        using.close()
    engine.dispose()
    assert [one.outcome for one in attempts] == ["done", *["retry"] * 9, "dead", "done"]
    assert kept == 2
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM notes").fetchone() == (0,)


def test_an_error_of_a_plain_handler_reaches_the_blocking_test(sync_bus: pgbus.Bus, database: str) -> None:
    @sync_bus.listener("n", name="fails")
    def fails(number: int) -> None:
        raise LookupError(number)

    with psycopg.connect(database) as connection:
        sync_bus.publish_sync(7, topic="n", using=connection)
        with pytest.raises(LookupError, match="7"):
            deliver_now_sync(sync_bus, using=connection)
        connection.rollback()


async def test_blocking_delivery_is_refused_on_a_running_loop(bus: pgbus.Bus) -> None:
    with pytest.raises(pgbus.CannotBlockHere, match="deliver_now"):
        deliver_now_sync(bus)


# -------------------------------------------------------------------------------------------- what was committed


async def test_committed_events_are_delivered_by_a_real_worker_until_nothing_is_left(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    @bus.listener("n", name="down")
    async def down(number: int) -> None:
        if number:
            await bus.publish(number - 1, topic="n")

    @bus.listener("n", name="writes", transactional=True)
    async def writes(number: int, own: asyncpg.Connection) -> None:
        await own.execute("INSERT INTO notes VALUES ($1)", str(number))

    await bus.publish(2, topic="n")
    attempts = await deliver_now(bus)
    assert sorted((one.listener_name, one.event.payload, one.outcome) for one in attempts) == [
        (name, number, "done") for name in ("down", "writes") for number in (0, 1, 2)
    ]
    assert await connection.fetchval("SELECT count(*) FROM notes") == 3
    assert await connection.fetchval("SELECT count(*) FROM pgbus.workers") == 0
    assert await deliver_now(bus) == []
    await bus.publish(0, topic="n")
    assert len(await deliver_now(bus)) == 2


async def test_the_first_error_of_a_worker_s_handler_comes_through(bus: pgbus.Bus) -> None:
    @bus.listener("n", name="fails")
    def fails(number: int) -> None:
        raise LookupError(number)

    await bus.publish(7, topic="n")
    with pytest.raises(LookupError, match="7"):
        await deliver_now(bus)


async def test_an_event_that_cannot_be_decoded_raises_too(bus: pgbus.Bus) -> None:
    @bus.listener("n", name="unfit", transactional=True)
    async def unfit(number: dict[str, int], own: asyncpg.Connection) -> None:
        raise AssertionError("it cannot be called")

    await bus.publish(7, topic="n")
    with pytest.raises(pgbus.UnhandledEventError):
        await deliver_now(bus)


async def test_a_worker_s_failures_are_collected_and_retried_without_delay(bus: pgbus.Bus) -> None:
    @bus.listener("n", name="third time", retry=5)
    async def third_time(number: int, context: pgbus.Context) -> None:
        if context.attempt < 3:
            raise pgbus.Retry("not yet", after=3600) if context.attempt == 2 else ValueError("first")

    @bus.listener("n", name="never", retry=2)
    def never(number: int) -> None:
        raise ValueError("never")

    await bus.publish(1, topic="n")
    attempts = await deliver_now(bus, raise_errors=False)
    assert sorted(summary(attempts)) == [
        ("never", "n", 1, "retry"), ("never", "n", 2, "dead"), ("third time", "n", 1, "retry"),
        ("third time", "n", 2, "retry"), ("third time", "n", 3, "done"),
    ]  # fmt: skip
    assert {one.error for one in attempts} == {None, "ValueError: first", "not yet", "ValueError: never"}


async def test_a_handler_that_runs_past_its_own_timeout_fails_the_test(bus: pgbus.Bus) -> None:
    @bus.listener("n", name="slow", timeout=0.01)
    async def slow(number: int) -> None:
        await asyncio.Event().wait()

    await bus.publish(1, topic="n")
    with pytest.raises(AssertionError, match=r"slow failed on n: HandlerTimeoutError: .* its timeout of 0\.01 seconds"):
        await deliver_now(bus)


async def test_no_tasks_run_while_events_are_delivered(bus: pgbus.Bus) -> None:
    @bus.client.every(seconds=1, also_run_immediately=True)
    async def tick() -> None:
        raise AssertionError("it is none of the listeners")

    @bus.listener("n", name="hears")
    async def hears(number: int) -> None:
        pass

    await bus.publish(1, topic="n")
    assert len(await deliver_now(bus)) == 1


async def test_a_hanging_handler_is_given_up_after_the_timeout(bus: pgbus.Bus) -> None:
    @bus.listener("n", name="hangs")
    async def hangs(number: int) -> None:
        await asyncio.Event().wait()

    await bus.publish(1, topic="n")
    with pytest.raises(TimeoutError, match=r"after 0\.5 seconds"):
        await deliver_now(bus, timeout=0.5)


async def test_the_error_of_a_worker_that_cannot_start_comes_through(empty_database: str) -> None:
    async with open_bus(empty_database) as bus:
        with pytest.raises((pgbus.SchemaVersionError, asyncpg.UndefinedTableError)):
            await deliver_now(bus)


def test_blocking_tests_deliver_what_they_committed(sync_bus: pgbus.Bus) -> None:
    heard: list[int] = []

    @sync_bus.listener("n", name="hears")
    def hears(number: int) -> None:
        heard.append(number)

    sync_bus.publish_sync(1, topic="n")
    assert summary(deliver_now_sync(sync_bus)) == [("hears", "n", 1, "done")]
    assert heard == [1]


async def test_a_procedure_that_plays_dead_is_to_its_caller_a_lost_worker(bus: pgbus.Bus) -> None:
    @bus.procedure("stock.take")
    async def take() -> None:
        raise pgbus.SuddenDeathException

    @bus.listener("n", name="calls")
    async def calls(number: int) -> None:
        await bus.call("stock.take")

    await bus.publish(1, topic="n")
    with pytest.raises(pgbus.WorkerLost, match=r"stock\.take"):
        await deliver_now(bus)


# ------------------------------------------------------------------------------------------- hooks and middleware


@pytest.fixture
def wrapped(bus: pgbus.Bus) -> list[str]:
    """What hooks, middleware and handlers of the bus did, in order."""
    did: list[str] = []

    @bus.client.before_event_execution()
    async def before(event_message: EventMessage) -> None:
        did.append("before")
        event_message.payload += 1

    @bus.client.after_event_execution()
    def after(event_message: EventMessage) -> None:
        did.append("after")

    @bus.middleware
    async def outer(context: pgbus.Context, call_next: Any) -> Any:
        did.append("in")
        try:
            return await call_next()
        finally:
            did.append("out")

    @bus.listener("n", name="async")
    async def handle(number: int) -> None:
        did.append(f"async {number}")

    return did


async def test_a_transactions_events_pass_through_hooks_and_middleware(
    bus: pgbus.Bus, connection: asyncpg.Connection, wrapped: list[str]
) -> None:
    async with connection.transaction():
        await bus.publish(1, topic="n", using=connection)
        (attempt,) = await deliver_now(bus, using=connection)
    assert wrapped == ["before", "in", "async 2", "out", "after"]
    assert attempt.event.payload == 1  # as it was published


async def test_committed_events_do_too(bus: pgbus.Bus, wrapped: list[str]) -> None:
    await bus.publish(1, topic="n")
    assert len(await deliver_now(bus)) == 1
    assert wrapped == ["before", "in", "async 2", "out", "after"]


async def test_what_middleware_raises_fails_the_test_either_way(
    bus: pgbus.Bus, connection: asyncpg.Connection, wrapped: list[str]
) -> None:
    @bus.middleware
    async def refuse(context: pgbus.Context, call_next: Any) -> Any:
        raise LookupError("refused")

    async with connection.transaction():
        await bus.publish(1, topic="n", using=connection)
        with pytest.raises(LookupError, match="refused"):
            await deliver_now(bus, using=connection)
    await bus.publish(1, topic="n")
    with pytest.raises(AssertionError, match="async failed on n: LookupError: refused"):
        await deliver_now(bus)


def test_plain_middleware_runs_with_plain_handlers_on_the_tests_own_thread(sync_bus: pgbus.Bus, database: str) -> None:
    threads: list[threading.Thread] = []

    @sync_bus.middleware
    def around(context: pgbus.Context, call_next: Any) -> Any:
        threads.append(threading.current_thread())
        return call_next()

    @sync_bus.listener("n", name="plain")
    def plain(number: int) -> None:
        threads.append(threading.current_thread())

    with psycopg.connect(database) as connection:
        sync_bus.publish_sync(1, topic="n", using=connection)
        assert len(deliver_now_sync(sync_bus, using=connection)) == 1
        connection.rollback()
    assert threads == [threading.current_thread()] * 2


# ------------------------------------------------------------------------------------------- one and the other


async def test_a_rehearsal_comes_to_what_the_real_engine_comes_to(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    @bus.listener("**", name="everything")
    def everything(event: EventMessage) -> None:
        pass

    @bus.listener("*.placed", "bills.**", OrderEvent, name="some")
    async def some(event: EventMessage, context: pgbus.Context) -> None:
        if event.topic == "bills" and context.attempt < 3:
            raise ValueError("not yet")

    @bus.listener("orders.*", name="in turn", ordered=True, retry=2)
    async def in_turn(event: EventMessage) -> None:
        if event.payload == {"order_id": 2}:
            raise ValueError("never")

    @bus.listener(OrderEvent, name="batches", batch=True, retry=1)
    async def batches(events: list[OrderEvent]) -> None:
        if any(event.order_id == 3 for event in events):
            raise pgbus.Dead("three")

    @bus.listener("orders.placed", name="writes", transactional=True)
    async def writes(event: OrderPlaced, own: asyncpg.Connection, context: pgbus.Context) -> None:
        await own.execute("INSERT INTO notes VALUES ('placed')")
        await context.publish({"order": event.order_id}, topic="bills.due", key=str(event.order_id))

    async def publish(using: asyncpg.Connection | None) -> None:
        for order_id in (1, 2, 3):
            await bus.publish(OrderPlaced(order_id), using=using, key=f"customer {order_id % 2}")
        await bus.publish(OrderEvent(4), using=using)
        await bus.publish("all", topic="bills", using=using)
        await bus.publish(None, topic="other.things.placed", using=using)

    def told(attempts: list[Attempt]) -> list[tuple[Any, ...]]:
        return sorted(
            (
                one.listener_name,
                one.event.topic,
                one.event.raw,
                one.event.key or "",
                one.attempt,
                one.outcome,
                one.error,
            )
            for one in attempts
        )

    transaction = connection.transaction()
    await transaction.start()
    await publish(connection)
    rehearsed = await deliver_now(bus, using=connection, raise_errors=False)
    await transaction.rollback()
    await publish(None)
    assert told(rehearsed) == told(await deliver_now(bus, raise_errors=False))
    assert {"done", "retry", "dead"} == {one.outcome for one in rehearsed}
    assert await connection.fetchval("SELECT count(*) FROM notes") == 3
