"""`deliver_now`: the listeners of what a test published, inside its transaction."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

import pgbus
from pgbus import EventMessage
from pgbus.testing import deliver_now
from tests.support.rehearsal import OrderEvent, OrderPlaced, rows_left
from tests.support.workers import Inbox, open_bus, running


async def test_events_of_a_transaction_are_delivered_in_it_unseen_by_others(
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


async def test_a_handlers_error_is_raised_at_once_and_leaves_the_transaction_usable(
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
