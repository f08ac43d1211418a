"""Handlers of every kind: async and plain functions, what they are given, how many run at once."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import pgbus
from tests.conftest import Connect
from tests.support.shapes import AsAttrs, AsDataclass, AsModel, AsStruct
from tests.support.tables import letters
from tests.support.waiting import PATIENCE
from tests.support.workers import QUICK_RETRY, Inbox, open_bus, running, until_idle


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
            assert released.wait(PATIENCE)
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
        barrier = threading.Barrier(3, timeout=PATIENCE)
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
            released.wait(PATIENCE)

        @bus.listener("c.d", name="other")
        def handle(event: dict[str, int]) -> None:
            inbox.put(event["n"])

        async with running(bus):
            await bus.publish_many([{"n": number} for number in range(10)], topic="a.b")
            await hanging.take(2)
            await bus.publish({"n": 1}, topic="c.d")
            assert await inbox.take(1) == [1]
            released.set()


async def test_a_plain_function_that_waits_for_a_thread_does_not_time_out(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database, listener_threads=1) as bus:

        @bus.listener("a.b", name="mail", concurrency=6, timeout=3.0, retry=1)
        def handle(event: dict[str, int]) -> None:
            time.sleep(0.75)  # a quarter of the timeout, and six of them one after the other

        async with running(bus):
            await bus.publish_many([{"n": number} for number in range(6)], topic="a.b")
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
