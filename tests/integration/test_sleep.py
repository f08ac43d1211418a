"""A bus that is owed nothing sleeps: nobody asks anything, and everything that is due or published wakes it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

import pgbus
from pgbus.admin import Admin
from pgbus.config import Config
from pgbus.database.statements import maintenance, sequencer
from pgbus.database.store import Store
from pgbus.leader import slumber
from pgbus.testing.crashes.wire import Session as Link
from pgbus.testing.crashes.wire import tapped
from pgbus.worker.worker import Worker
from tests.support import eventually
from tests.support.orders import collect, publish
from tests.support.sleeping import PATIENCE, asleep, pair
from tests.support.waiting import widening
from tests.support.workers import Inbox, open_bus, running

# Short, so that a worker that did not sleep would ask all the time.
POLL = 0.05
# What comes later was slept through; a busy machine is late by seconds.
LATE = timedelta(seconds=10)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a bus sleep that was quiet for a moment."""
    monkeypatch.setattr(slumber, "QUIET", 0.2)


class Statements:
    """What has passed a tap."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def before(self, session: Link, statement: str) -> None:
        self.sent.append(statement)

    def after(self, session: Link, statement: str) -> None: ...


@asynccontextmanager
async def sleeping_pair(database: str) -> AsyncIterator[tuple[pgbus.Bus, Worker, Worker, Inbox[int]]]:
    """A `pair` that sleeps."""
    async with pair(database) as (publisher, leader, follower, inbox):
        await asleep(leader, follower)
        yield publisher, leader, follower, inbox


async def test_a_bus_that_is_owed_nothing_sends_nothing_and_has_set_no_timer(database: str) -> None:
    statements = Statements()
    async with tapped(database, statements) as dsn, open_bus(dsn, poll_interval=POLL) as bus:
        inbox = collect(bus, name="mail")
        bus.client.every(hours=1, name="hourly")(lambda: None)
        async with open_bus(dsn, poll_interval=POLL) as other, running(bus) as leader, running(other) as follower:
            await asleep(leader, follower)
            loop = asyncio.get_running_loop()
            await eventually(lambda: _next_timer(loop) > 60.0, PATIENCE)
            statements.sent.clear()
            # Longer than any interval of a bus that is awake but for its reports; they come with the polls.
            await asyncio.sleep(1.5)
            assert statements.sent == []
            await publish(bus, 1)
            await inbox.take(1)
            await asleep(leader, follower)


def _next_timer(loop: asyncio.AbstractEventLoop) -> float:
    timers: list[asyncio.TimerHandle] = loop._scheduled  # type: ignore[attr-defined]
    # The watch for stalls, and that of the clock, are the process's own: they ask nobody.
    ours = [one for one in timers if not one.cancelled() and not re.search("StallWatch|look_at_clock", repr(one))]
    return min((one.when() - loop.time() for one in ours), default=3600.0)


async def test_an_event_wakes_the_bus_and_reaches_a_listener_in_another_process(database: str) -> None:
    async with sleeping_pair(database) as (publisher, leader, follower, inbox):
        for number in range(3):
            await publish(publisher, number)
            assert number in await inbox.take(number + 1)
            await asleep(leader, follower)
        assert leader.leads
        assert not follower.leads


async def test_a_call_is_answered_out_of_sleep(database: str) -> None:
    async with open_bus(database) as bus, open_bus(database) as caller:

        @bus.procedure(name="shop.double")
        async def double(number: int) -> int:
            return 2 * number

        async with running(bus) as worker:
            await asleep(worker)
            assert await caller.call("shop.double", {"number": 21}, timeout=PATIENCE) == 42
            await asleep(worker)


async def test_a_schedule_runs_on_time_out_of_sleep(database: str) -> None:
    inbox: Inbox[tuple[bool, timedelta]] = Inbox()
    async with open_bus(database) as bus, open_bus(database) as other:

        @bus.client.every(seconds=3, name="task")
        async def task(context: pgbus.TaskContext) -> None:
            inbox.put((worker.is_asleep, datetime.now(UTC) - context.due_at))

        async with running(other) as leader, running(bus) as worker:
            await asleep(leader, worker)
            (_, late), *_ = await inbox.take(1)
            assert timedelta(0) <= late < LATE
            await asleep(leader, worker)
            await inbox.take(2)


async def test_a_scheduled_event_comes_on_time_out_of_sleep(database: str, connection: asyncpg.Connection) -> None:
    async with sleeping_pair(database) as (publisher, leader, follower, inbox):
        for number, seconds in enumerate(widening(2.5)):
            due_at = datetime.now(UTC) + timedelta(seconds=seconds)
            await publisher.publish({"n": number}, topic="orders.placed", deliver_at=due_at)
            await asleep(leader, follower)
            was_early = len(inbox.items) == number
            await inbox.take(number + 1)
            if was_early:
                break
        logged_at = await connection.fetchval("SELECT max(logged_at) FROM pgbus.events")
        assert timedelta(0) <= logged_at - due_at < LATE


@pytest.mark.parametrize("ordered", [False, True])
async def test_a_retry_that_waits_lets_the_bus_sleep_and_comes_back(database: str, ordered: bool) -> None:
    attempts: Inbox[tuple[int, int]] = Inbox()
    # In order, the second one waits behind the first, whose time has not come.
    expected = [(1, 1), (1, 2), (2, 1)][: 3 if ordered else 2]
    async with open_bus(database) as bus:

        @bus.listener("orders.placed", name="fragile", ordered=ordered)
        async def fragile(event: dict[str, Any], context: pgbus.Context) -> None:
            attempts.put((event["n"], context.attempt))
            if attempts.items == [(1, 1)]:
                raise pgbus.Retry(after=event["after"])

        async with running(bus) as worker:
            for seconds in widening(2.5):
                attempts.items.clear()
                for number in (1, 2)[: len(expected) - 1]:
                    await bus.publish({"n": number, "after": seconds}, topic="orders.placed", key="one")
                await attempts.take(1)
                await asleep(worker)
                was_early = attempts.items == [(1, 1)]
                assert await attempts.take(len(expected)) == expected
                await asleep(worker)
                if was_early:
                    break


async def test_a_handler_that_runs_keeps_the_bus_awake(database: str, connection: asyncpg.Connection) -> None:
    begun, gate = asyncio.Event(), asyncio.Event()
    async with open_bus(database) as bus:

        @bus.listener("a.b", name="slow")
        async def slow(event: dict[str, object]) -> None:
            begun.set()
            await gate.wait()

        async with running(bus) as worker:
            await bus.publish({}, topic="a.b")
            await begun.wait()
            owed = await sequencer.find_owed(Store(connection, namespace="pgbus"))
            assert owed.now
            gate.set()
            await asleep(worker)


# -------------------------------------------------------------------------------------------------- who is not there


async def test_a_leader_that_is_gone_when_the_bus_wakes_is_replaced(
    database: str, connection: asyncpg.Connection
) -> None:
    async with sleeping_pair(database) as (publisher, leader, follower, inbox):
        await _end_sessions(connection, "fall_asleep|pg_advisory_unlock")
        assert leader.is_asleep
        await publish(publisher, 1)
        assert 1 in await inbox.take(1)
        await eventually(lambda: leader.leads or follower.leads, PATIENCE)
        await asleep(leader, follower)


async def test_a_leader_that_slept_while_another_led_forgets_what_it_knew(
    database: str, connection: asyncpg.Connection
) -> None:
    async with sleeping_pair(database) as (publisher, leader, follower, inbox):
        await publish(publisher, 0)
        await inbox.take(1)
        await asleep(leader, follower)
        # As a new leader does when it begins; and it has used positions since.
        await sequencer.advance_wake_slot(Store(connection, namespace="pgbus"))
        await connection.execute("SELECT pg_notify('pgbus_wake', '')")
        await eventually(lambda: not leader.is_asleep, PATIENCE)
        await publish(publisher, 1)
        assert 1 in await inbox.take(2)
        position = await connection.fetchval("SELECT max(position) FROM pgbus.events")
        assert position > 100_000  # of one that began anew
        await asleep(leader, follower)


async def test_a_worker_whose_session_is_cut_in_its_sleep_opens_another_one(
    database: str, connection: asyncpg.Connection
) -> None:
    async with sleeping_pair(database) as (publisher, leader, follower, inbox):
        await connection.execute(
            "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity AS a"
            " WHERE a.datname = current_database() AND a.application_name = 'pgbus'"
        )
        await eventually(lambda: not leader.is_asleep and not follower.is_asleep, PATIENCE)
        await asleep(leader, follower)
        await publish(publisher, 1)
        assert 1 in await inbox.take(1)


async def _heard_all(worker: Worker) -> None:
    """A statement on its session comes after the notifications before it, and a second one after what these ask."""
    session = worker._membership.session
    assert session
    for _ in range(2):
        await session.fetch("SELECT 1")


async def test_nobody_sleeps_because_someone_says_so(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slumber, "QUIET", 600.0)  # so that it does not begin to sleep by itself
    async with open_bus(database) as bus, running(bus) as worker:
        await eventually(lambda: worker.leads, PATIENCE)
        for _ in range(3):
            await connection.execute("SELECT pg_notify('pgbus_work', 'dozing')")
            for text in ("asleep 1000", "asleep nan", "asleep x", "asleep -1", "asleep inf"):
                await connection.execute("SELECT pg_notify('pgbus_work', $1)", text)
            await _heard_all(worker)
            assert not worker.is_asleep
        monkeypatch.setattr(slumber, "QUIET", 0.2)
        await connection.execute("SELECT pg_notify('pgbus_wake', '')")
        await asleep(worker)


# ---------------------------------------------------------------------------------------------------------- looking


async def test_a_worker_that_sleeps_is_shown_as_asleep_and_stays_listed(
    database: str, connection: asyncpg.Connection
) -> None:
    async with sleeping_pair(database):
        await connection.execute(
            "UPDATE pgbus.workers SET last_seen_at = now() - INTERVAL '1 day', started_at = now() - INTERVAL '2 days'"
        )
        await connection.execute("UPDATE pgbus.declarations SET last_seen_at = now() - INTERVAL '1 day'")
        store = Store(connection, namespace="pgbus")
        await maintenance.prune_workers(store, worker_ttl=1.0, worker_id=0)
        await maintenance.expire_declarations(store, ttl=1.0)
        async with Admin.connect(Config(dsn=database)) as admin:
            status = await admin.status()
        assert [(one.live, one.asleep, one.hangs, one.leading) for one in status.workers] == [
            (True, True, False, False)
        ] * 2
        assert await connection.fetchval("SELECT count(*) FROM pgbus.subscriptions") == 1


async def _end_sessions(connection: asyncpg.Connection, last_statement: str) -> None:
    """End the sessions whose last statement was this one."""
    ended = await connection.fetch(
        "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity AS a"
        " WHERE a.datname = current_database() AND a.application_name = 'pgbus' AND a.query ~ $1"
        " AND a.query ~ 'asleep '",
        last_statement,
    )
    assert len(ended) == 1
