"""A worker with `idle_close` closes its sessions while the bus sleeps, and hears of all that its process publishes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx
import psycopg
import pytest

import pgbus
from pgbus.contrib.prometheus import MonitoringApp
from pgbus.database.statements import sequencer
from pgbus.database.store import Store
from pgbus.leader import slumber
from pgbus.worker.worker import Worker
from tests.support import eventually
from tests.support.orders import INSERT, collect, publish
from tests.support.sleeping import PATIENCE, asleep
from tests.support.workers import Inbox, open_bus, running

SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
PAYLOAD = '{"n": %d}'


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a bus sleep that was quiet for a moment."""
    monkeypatch.setattr(slumber, "QUIET", 0.2)


@asynccontextmanager
async def resting(database: str, **settings: object) -> AsyncIterator[tuple[pgbus.Bus, Worker, Inbox[int]]]:
    """A worker that rests, its bus, and what its listener got."""
    async with open_bus(database, idle_close=1, **settings) as bus:
        inbox = collect(bus, name="mail")
        async with running(bus) as worker:
            await rests(worker)
            yield bus, worker, inbox


async def rests(worker: Worker) -> None:
    await eventually(lambda: worker.is_resting and not worker.leads, PATIENCE)


async def closed(connection: asyncpg.Connection, *, but: int = 0) -> None:
    """Wait until nobody but the test, and `but` sessions more, is connected."""

    async def is_so() -> bool:
        return bool(await connection.fetchval(SESSIONS) == but)

    await eventually(is_so, PATIENCE)


async def test_a_worker_that_rests_has_no_session_and_is_ready(database: str, connection: asyncpg.Connection) -> None:
    async with resting(database) as (_, worker, _inbox):
        await closed(connection)
        assert worker.is_asleep
        assert worker.why_not_ready() is None
        assert await connection.fetchval("SELECT count(*) FROM pgbus.workers") == 0
    assert await connection.fetchval(SESSIONS) == 0


async def test_what_the_process_publishes_wakes_it_each_time(database: str, connection: asyncpg.Connection) -> None:
    async with resting(database) as (bus, worker, inbox):
        for number in range(3):
            await publish(bus, number)
            assert number in await inbox.take(number + 1)
            await rests(worker)
        await closed(connection, but=1)  # the publisher's


async def test_what_a_thread_of_the_process_publishes_with_another_driver_wakes_it(database: str) -> None:
    def work(bus: pgbus.Bus) -> None:
        with psycopg.connect(database) as mine:
            bus.publish_sync({"n": 1}, topic="orders.placed", using=mine)

    async with resting(database) as (bus, _, inbox):
        await asyncio.to_thread(work, bus)
        assert await inbox.take(1) == [1]


async def test_a_worker_waits_for_the_end_of_a_transaction_that_has_published(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: Inbox[bool] = Inbox()

    async def may_close(store: Store) -> bool:
        answers.put(await ask(store))
        return answers.items[-1]

    ask = sequencer.may_close
    monkeypatch.setattr(sequencer, "may_close", may_close)
    async with resting(database) as (bus, worker, inbox):
        async with connection.transaction():
            await bus.publish({"n": 1}, topic="orders.placed", using=connection)
            await answers.until(lambda all_of_them: all_of_them.count(False) > 1)
        assert await inbox.take(1) == [1]
        await answers.until(lambda all_of_them: all_of_them[-1])
        await rests(worker)


async def test_a_schedule_and_a_scheduled_event_and_a_retry_end_a_rest(database: str) -> None:
    attempts: Inbox[datetime] = Inbox()
    runs: Inbox[timedelta] = Inbox()
    async with open_bus(database, idle_close=1) as bus:

        @bus.listener("jobs.made", name="jobs", retry=pgbus.RetryPolicy(base_delay=5, jitter=0.0))
        async def job(event: object) -> None:
            attempts.put(datetime.now(UTC))
            if len(attempts.items) == 1:
                raise ValueError("not yet")

        async with running(bus) as worker:
            await bus.publish({}, topic="jobs.made", deliver_at=datetime.now(UTC) + timedelta(seconds=5))
            await rests(worker)
            await attempts.take(1)
            await rests(worker)
            first, second = await attempts.take(2)
            assert second - first >= timedelta(seconds=4.9)

            @bus.client.every(seconds=5, name="task")
            async def task(context: pgbus.TaskContext) -> None:
                runs.put(datetime.now(UTC) - context.due_at)

            await runs.take(1)
            await rests(worker)
            assert all(late >= timedelta(0) for late in await runs.take(2))


async def test_what_others_publish_waits_until_the_worker_is_woken(
    database: str, connection: asyncpg.Connection
) -> None:
    async with resting(database) as (bus, worker, inbox):
        await closed(connection)
        await connection.execute(INSERT, "orders.placed", PAYLOAD % 1)
        assert not inbox.items
        assert worker.is_resting
        bus.client.wake_workers()
        assert await inbox.take(1) == [1]
        await rests(worker)
        await closed(connection)
        await connection.execute(INSERT, "orders.placed", PAYLOAD % 2)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(MonitoringApp(bus)), base_url="http://worker"
        ) as client:
            assert (await client.get("/wake")).status_code == 405
            assert (await client.get("/readyz")).status_code == 200
            assert (await client.post("/wake")).status_code == 202
        assert await inbox.take(2) == [1, 2]


async def test_a_worker_that_rests_does_not_wake_the_others(database: str) -> None:
    async with open_bus(database) as other, running(other) as watcher, resting(database):
        await asleep(watcher)
        # As it closed, it has woken nobody: since then the other one has slept.
        assert watcher.is_asleep


async def test_a_server_that_refuses_connections_when_a_worker_wakes_is_tried_again(
    database: str, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    name = await connection.fetchval("SELECT quote_ident(current_database())")
    async with resting(database) as (bus, worker, inbox):
        await connection.execute(INSERT, "orders.placed", PAYLOAD % 1)
        await closed(connection)
        elsewhere = await asyncpg.connect(database, database="postgres")
        await elsewhere.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        try:
            bus.client.wake_workers()
            await eventually(lambda: "reconnecting" in caplog.text, PATIENCE)
            assert worker.why_not_ready() is not None
        finally:
            await elsewhere.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            await elsewhere.close()
        assert await inbox.take(1) == [1]


@pytest.mark.parametrize("kind", ["procedure", "background"])
async def test_a_worker_that_others_look_for_or_that_works_in_the_background_does_not_rest(
    database: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_bus(database, idle_close=1) as bus:
        if kind == "procedure":
            bus.procedure("shop.double")(lambda number: 2 * number)
        else:
            bus.client.add_background_task(asyncio.Event().wait())
        with caplog.at_level(logging.WARNING, logger="pgbus"):
            async with running(bus) as worker:
                await asleep(worker)
                await eventually(lambda: "idle_close has no effect" in caplog.text, PATIENCE)
                assert not worker.is_resting
