"""Hooks before and after a handler runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from sqlalchemy.orm import Session

import pgbus
from pgbus.listeners import hooks as listener_hooks
from pgbus.telemetry import Claimed, Settled
from tests.support.waiting import PATIENCE
from tests.support.workers import QUICK_RETRY, Inbox, Watch, running


async def outcomes(connection: asyncpg.Connection) -> list[tuple[int, str]]:
    rows = await connection.fetch("SELECT attempt, outcome FROM pgbus.attempts ORDER BY position, attempt")
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


async def test_slow_hooks_after_executions_delay_the_listener_not_its_settlements(
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


async def test_stop_hooks_run_after_the_hooks_that_follow_executions(
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
