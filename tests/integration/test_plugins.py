"""Plugins in a bus: the order of their calls, and what becomes of what they raise."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import NamedTuple

import asyncpg
import pytest

from pgbus import Api, BusClient, Event, EventMessage, Plugin, RemoteError
from pgbus.config import Config
from pgbus.plugins.metrics import MetricsPlugin
from pgbus.plugins.state import StatePlugin
from tests.conftest import Connect
from tests.support import eventually
from tests.support.workers import Inbox, open_bus, running


class Named(Plugin):
    def __init__(self, name: str, calls: list[str], *, priority: int = 1000) -> None:
        self.priority = priority
        self.name = name
        self.calls = calls


class Async(Named):
    async def before_event_sent(self, *, client: BusClient, event_message: EventMessage) -> None:
        self.calls.append(f"{self.name} {event_message.topic}")


class Plain(Named):
    def before_event_sent(self, event_message: EventMessage) -> None:
        self.calls.append(f"{self.name} {event_message.topic}")


async def test_plugins_are_called_by_priority_between_the_hooks_around_them(database: str) -> None:
    calls: list[str] = []
    plugins = [Plain("third", calls), Async("second", calls, priority=200), Async("fourth", calls)]
    async with open_bus(database, plugins=plugins) as bus:

        @bus.client.before_event_sent()
        def last(event_message: EventMessage) -> None:
            calls.append("last")

        @bus.client.before_event_sent(before_plugins=True)
        def first(event_message: EventMessage) -> None:
            calls.append("first")

        await bus.publish(1, topic="a.b")
    assert calls == ["first", "second a.b", "third a.b", "fourth a.b", "last"]


async def test_what_a_plugin_raises_before_an_event_is_sent_keeps_it_from_being_sent(
    database: str, connect: Connect
) -> None:
    class Strict(Plugin):
        def before_event_sent(self, event_message: EventMessage) -> None:
            if not event_message.payload:
                raise ValueError("an event without anything in it")

    observer = await connect(database)
    async with open_bus(database, plugins=[Strict()]) as bus:
        with pytest.raises(ValueError, match="without anything"):
            await bus.publish({}, topic="a.b")
        await bus.publish({"a": 1}, topic="a.b")
    assert await observer.fetchval("SELECT count(*) FROM pgbus.outbox") == 1


async def test_a_plugin_fires_events_of_an_api_of_its_own_also_from_code_that_blocks(database: str) -> None:
    class AuditApi(Api):
        noted = Event(parameters=("topic",))

        class Meta:
            name = "audit"

    class Auditor(Plugin):
        apis = (AuditApi(),)

        async def after_event_sent(self, client: BusClient, event_message: EventMessage) -> None:
            if event_message.api_name != "audit":
                await client.fire_event("audit", "noted", {"topic": event_message.topic})

    async with open_bus(database, plugins=[Auditor()]) as bus:
        inbox: Inbox[str] = Inbox()

        def hear(topic: str) -> None:
            inbox.put(topic)

        bus.audit.noted.listen(hear, listener_name="hear")
        async with running(bus):
            await bus.publish(1, topic="a.awaited")
            await asyncio.to_thread(bus.publish_sync, 1, topic="a.blocking")
            assert sorted(await inbox.take(2)) == ["a.awaited", "a.blocking"]


async def test_a_metric_that_cannot_be_published_is_logged_and_the_event_is_not_hurt(
    database: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    owner = await connect(database)
    await owner.execute("ALTER TABLE pgbus.outbox ADD CONSTRAINT no_metrics CHECK (topic NOT LIKE 'internal.%')")
    async with open_bus(database, plugins=[MetricsPlugin(config=Config())]) as bus:
        await bus.publish(1, topic="a.b")
    assert [row["topic"] for row in await owner.fetch("SELECT topic FROM pgbus.outbox")] == ["a.b"]
    assert "could not fire event_fired: " in caplog.text


class Customer(NamedTuple):
    name: str
    since: datetime


async def test_metrics_carry_arguments_and_results_of_any_type_and_tell_of_failures(
    database: str, connect: Connect
) -> None:
    observer = await connect(database)
    customer = Customer("ann", datetime(2025, 1, 2, tzinfo=UTC))
    async with open_bus(database, plugins=[MetricsPlugin(config=Config())]) as bus:

        @bus.procedure("shop.same")
        async def same(customer: Customer, fails: bool) -> Customer:
            if fails:
                raise KeyError("no such customer")
            return customer

        async with running(bus):
            assert await bus.call("shop.same", {"customer": customer, "fails": False}, returns=Customer) == customer
            with pytest.raises(RemoteError):
                await bus.call("shop.same", {"customer": customer, "fails": True})

            async def told() -> list[asyncpg.Record]:
                query = """SELECT payload ->> 'id' AS id, split_part(topic, '.', 3) AS step,
                                  payload -> 'kwargs' AS kwargs, payload -> 'result' AS result
                           FROM pgbus.events WHERE topic LIKE 'internal.metrics.%' ORDER BY position"""
                rows = await observer.fetch(query)
                return rows if len(rows) == 8 else []

            rows = await eventually(told)
    as_json = {"name": "ann", "since": "2025-01-02T00:00:00Z"}
    assert [json.loads(row["kwargs"]) for row in rows if row["kwargs"]] == [
        {"customer": as_json, "fails": False},
        {"customer": as_json, "fails": True},
    ]
    assert [json.loads(row["result"]) for row in rows if row["result"]] == [as_json, "KeyError('no such customer')"]
    assert [row["step"] for row in rows].count("rpc_response_received") == 2
    assert len({row["id"] for row in rows}) == 2


async def test_the_state_of_a_worker_names_what_start_hooks_declare(database: str, connect: Connect) -> None:
    observer = await connect(database)

    async def told(count: int) -> list[tuple[str, str | None]]:
        rows = await observer.fetch(
            "SELECT topic, payload ->> 'listening_for' FROM pgbus.events "
            "WHERE topic LIKE 'internal.state.%' ORDER BY position"
        )
        return [(topic.rpartition(".")[2], topics) for topic, topics in rows] if len(rows) == count else []

    async with open_bus(database, plugins=[StatePlugin(config=Config(), ping_enabled=False)]) as bus:

        @bus.client.on_start()
        def declare() -> None:
            bus.auth.user_created.listen(lambda event: None, listener_name="late")

        async with running(bus):
            await eventually(lambda: told(1))
    async with open_bus(database) as other, running(other):  # which takes the last of it into the log
        states = await eventually(lambda: told(2))
    assert states == [("worker_started", '["auth.user_created"]'), ("worker_stopped", None)]
