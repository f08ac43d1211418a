"""Runs whose worker stops, dies or loses its claim or its database."""

import asyncio
import threading
from functools import partial
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

import pgbus
from pgbus.admin import Admin
from pgbus.database.statements import schedules as statements
from pgbus.database.statements.listeners import lock_worker, register_worker
from pgbus.database.statements.schedules import FoundSchedule, FreedSchedules, ScheduleClaim
from pgbus.database.store import Store
from pgbus.schedules.claimer import Claimer
from pgbus.telemetry import SessionOpened, TaskEnded, TaskStarted
from tests.support import eventually
from tests.support.faultproxy import FaultProxy
from tests.support.tasks import declare, runs
from tests.support.waiting import PATIENCE
from tests.support.workers import Inbox, Watch, open_bus, running


async def test_stopping_lets_a_run_finish(bus: pgbus.Bus, connection: asyncpg.Connection) -> None:
    going = asyncio.Event()

    @bus.client.every(hours=1, name="task", also_run_immediately=True)
    async def task() -> None:
        await going.wait()

    watch = Watch(bus)
    async with running(bus) as worker:
        await watch.first(TaskStarted)
        worker.request_stop()
        going.set()
        await watch.first(TaskEnded)
    assert [row["outcome"] for row in await runs(connection)] == ["done"]


async def test_a_run_that_is_claimed_as_its_worker_begins_to_stop_is_given_back(
    bus: pgbus.Bus, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, stop = statements.claim_schedules, Claimer.stop
    claimed, stopping = asyncio.Event(), asyncio.Event()

    async def claim_and_answer_late(*values: Any, **named: Any) -> list[FoundSchedule]:
        found = await claim(*values, **named)
        claimed.set()
        await stopping.wait()
        return found

    def note_and_stop(claimer: Claimer) -> None:
        stopping.set()
        stop(claimer)

    monkeypatch.setattr(statements, "claim_schedules", claim_and_answer_late)
    monkeypatch.setattr(Claimer, "stop", note_and_stop)

    @bus.client.every(hours=1, name="task", also_run_immediately=True)
    def task() -> None:
        raise AssertionError("the worker stops")

    async with running(bus):
        await claimed.wait()
    assert [row["outcome"] for row in await runs(connection)] == ["cancelled"]
    assert await connection.fetchval("SELECT claim_token IS NULL AND next_run_at <= now() FROM pgbus.schedules")


async def test_a_run_that_outlasts_the_grace_period_is_begun_again_by_the_next_worker(
    database: str, connection: asyncpg.Connection
) -> None:
    attempts: Inbox[int] = Inbox()

    async def task(context: pgbus.TaskContext) -> None:
        attempts.put(context.attempt)
        if context.attempt == 1:
            await asyncio.Event().wait()

    for count in (1, 2):
        async with open_bus(database, grace=0) as bus:
            bus.client.every(hours=1, name="task", also_run_immediately=True, missed="skip")(task)
            watch = Watch(bus)
            async with running(bus):
                await attempts.take(count)
                if count == 2:
                    await watch.first(TaskEnded)
    assert attempts.items == [1, 2]
    first, second = await runs(connection)
    assert (first["outcome"], second["outcome"]) == ("cancelled", "done")
    assert first["due_at"] == second["due_at"]


async def test_a_run_is_taken_over_when_its_workers_session_is_gone(
    database: str, connection: asyncpg.Connection
) -> None:
    inbox: Inbox[int] = Inbox()
    await _claim_as_a_dead_worker(database, connection)
    async with open_bus(database) as bus:

        @bus.client.every(hours=1, name="task")
        async def task(context: pgbus.TaskContext) -> None:
            inbox.put(context.attempt)

        watch = Watch(bus)
        async with running(bus):
            await watch.first(TaskEnded)
    assert inbox.items == [2]
    assert [row["outcome"] for row in await runs(connection)] == ["lost", "done"]


async def test_the_leader_alone_frees_a_run_and_only_at_its_second_look(
    database: str, connection: asyncpg.Connection
) -> None:
    await _claim_as_a_dead_worker(database, connection)
    store = Store(connection, namespace="pgbus")
    living = await register_worker(store, name="w", service="", home=None, host="", pid=1, version="", listeners=[])
    await lock_worker(store, worker_id=living)

    async def claim() -> ScheduleClaim | None:
        [found] = await statements.claim_schedules(
            store, worker_id=living, worker="w", names=["task"], tokens=[uuid4()], running=[], lease=60.0
        )
        return found.claim

    assert await claim() is None
    first = await statements.free_schedules(store, absent=frozenset())
    assert first == FreedSchedules(names=[], absent=frozenset({4711}))
    assert await claim() is None
    assert (await statements.free_schedules(store, absent=first.absent)).names == ["task"]
    claimed = await claim()
    assert claimed is not None
    assert claimed.attempt == 2
    assert [row["outcome"] for row in await runs(connection)] == ["lost", "running"]
    # Its lease alone says that a worker that holds its lock is gone.
    assert (await statements.free_schedules(store, absent=frozenset({living}))).names == []
    await connection.execute("UPDATE pgbus.schedules SET lease_expires_at = now() - interval '1 s'")
    assert (await statements.free_schedules(store, absent=frozenset())).names == ["task"]


async def test_a_run_that_broke_off_too_often_is_given_up(database: str, connection: asyncpg.Connection) -> None:
    await _claim_as_a_dead_worker(database, connection, attempt=5)
    async with open_bus(database) as bus:

        @bus.client.every(hours=1, name="task")
        async def task() -> None:
            raise AssertionError("it kills its worker")

        watch = Watch(bus)
        async with running(bus):
            ended = await watch.first(TaskEnded)
    assert ended.outcome == "skipped"
    row = (await runs(connection))[-1]
    assert row["error"] == "its worker died or stopped 5 times while it ran"
    assert await connection.fetchval("SELECT next_run_at > now() FROM pgbus.timetable")


async def _claim_as_a_dead_worker(database: str, connection: asyncpg.Connection, *, attempt: int = 1) -> None:
    async with open_bus(database) as bus:
        bus.client.every(hours=1, name="task")(lambda: None)
        await declare(bus)
    await connection.execute(
        """
        WITH claimed AS (
            UPDATE pgbus.schedules
            SET claim_token = gen_random_uuid(), worker_id = 4711, attempt = $1, next_run_at = now(),
                lease_expires_at = now() + interval '1 hour'
            RETURNING *
        )
        INSERT INTO pgbus.schedule_runs (run_id, schedule_name, due_at, attempt, worker, started_at)
        SELECT claim_token, schedule_name, next_run_at, attempt, 'the dead one', now() FROM claimed
        """,
        attempt,
    )


async def test_a_worker_that_lost_its_claim_breaks_its_run_off(database: str, connection: asyncpg.Connection) -> None:
    cancelled = asyncio.Event()
    async with open_bus(database, lease=1) as bus:

        @bus.client.every(hours=1, name="task", also_run_immediately=True)
        async def task() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        watch = Watch(bus)
        async with running(bus):
            await watch.first(TaskStarted)
            token = "UPDATE pgbus.schedules SET claim_token = gen_random_uuid(), worker_id = 0, state = 'paused'"
            await connection.execute(token)
            async with asyncio.timeout(PATIENCE):
                await cancelled.wait()
            assert (await watch.first(TaskEnded)).outcome == "lost"


async def test_a_lease_is_extended_while_a_run_goes_on(database: str, connection: asyncpg.Connection) -> None:
    async with open_bus(database, lease=6) as bus:
        going = asyncio.Event()

        @bus.client.every(hours=1, name="task", also_run_immediately=True)
        async def task() -> None:
            await going.wait()

        watch = Watch(bus)
        async with running(bus):
            await watch.first(TaskStarted)
            for _ in range(2):
                expires_at = await connection.fetchval("SELECT lease_expires_at FROM pgbus.schedules")
                extended = "SELECT lease_expires_at > $1 FROM pgbus.schedules"
                await eventually(partial(connection.fetchval, extended, expires_at))
            going.set()
            assert (await watch.first(TaskEnded)).outcome == "done"


async def test_a_plain_function_that_lost_its_claim_is_waited_for(
    database: str, connection: asyncpg.Connection
) -> None:
    begun: Inbox[int] = Inbox()
    going = threading.Event()
    async with open_bus(database, lease=4) as bus:

        @bus.client.every(hours=1, name="task", also_run_immediately=True)
        def task(context: pgbus.TaskContext) -> None:
            begun.put(context.attempt)
            if len(begun.items) == 1:
                going.wait(PATIENCE)

        watch = Watch(bus)
        async with running(bus):
            await begun.take(1)
            # Someone else took it over, and is done already; the next one is due.
            await connection.execute(
                "UPDATE pgbus.schedules SET claim_token = NULL, worker_id = NULL, lease_expires_at = NULL, attempt = 0"
            )

            async def out_of_its_lease() -> bool:
                query = "SELECT max(started_at) + interval '5 seconds' < now() FROM pgbus.schedule_runs"
                return await connection.fetchval(query) is True

            await eventually(out_of_its_lease)
            assert begun.items == [1]
            going.set()
            await begun.take(2)
            await watch.first(TaskEnded, after=1)
    assert [one.outcome for one in watch.of(TaskEnded)] == ["lost", "done"]


async def test_a_run_goes_on_while_its_worker_finds_its_session_again(
    database: str, connection: asyncpg.Connection
) -> None:
    going = asyncio.Event()
    async with open_bus(database) as bus:

        @bus.client.every(hours=1, name="task", also_run_immediately=True)
        async def task() -> None:
            await going.wait()

        watch = Watch(bus)
        async with running(bus):
            await watch.first(TaskStarted)
            sessions = len(watch.of(SessionOpened))
            await connection.execute(
                """
                SELECT pg_terminate_backend(pid) FROM pg_locks
                WHERE locktype = 'advisory' AND classid::bigint = hashtext('pgbus.worker')::bigint & 4294967295
                  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                """
            )
            await watch.first(SessionOpened, after=sessions)
            going.set()
            assert (await watch.first(TaskEnded)).outcome == "done"
    assert [(row["outcome"], row["attempt"]) for row in await runs(connection)] == [("done", 1)]


async def test_an_outcome_is_written_when_the_database_is_back(database: str, connection: asyncpg.Connection) -> None:
    going = asyncio.Event()
    async with FaultProxy(database) as proxy, open_bus(proxy.dsn) as bus:

        @bus.client.every(hours=1, name="task", also_run_immediately=True)
        async def task() -> None:
            await going.wait()
            proxy.reset()

        watch = Watch(bus)
        async with running(bus):
            await watch.first(TaskStarted)
            going.set()
            assert (await watch.first(TaskEnded)).outcome == "done"
    assert [(row["outcome"], row["attempt"]) for row in await runs(connection)] == [("done", 1)]
    assert await connection.fetchval("SELECT next_run_at > now() FROM pgbus.timetable")


async def test_a_claim_whose_answer_was_lost_is_claimed_again_by_the_same_worker(
    database: str, connection: asyncpg.Connection
) -> None:
    inbox: Inbox[int] = Inbox()
    async with open_bus(database) as bus, Admin.connect(bus.config) as admin:

        @bus.client.every(hours=1, name="task")
        async def task(context: pgbus.TaskContext) -> None:
            inbox.put(context.attempt)

        watch = Watch(bus)
        async with running(bus):
            await connection.execute(
                """
                UPDATE pgbus.schedules
                SET claim_token = gen_random_uuid(), worker_id = $1, attempt = 1, next_run_at = now(),
                    lease_expires_at = now() + interval '1 hour'
                """,
                watch.of(SessionOpened)[0].worker_id,
            )
            await admin.schedules.pause("task")
            await admin.schedules.resume("task")  # has the worker look
            await watch.first(TaskEnded)
    assert inbox.items == [2]


async def test_a_run_is_begun_once_though_another_schedules_next_run_cannot_be_set(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_next_run = statements.set_next_run
    failures = [ConnectionError("the link broke after the claim")]

    async def set_or_fail(*values: Any, **named: Any) -> None:
        if failures:
            raise failures.pop()
        await set_next_run(*values, **named)

    monkeypatch.setattr(statements, "set_next_run", set_or_fail)
    async with open_bus(database) as bus:

        @bus.client.every(hours=1, name="first")
        async def first() -> None: ...

        @bus.client.every(hours=1, name="task", also_run_immediately=True)
        async def task() -> None: ...

        watch = Watch(bus)
        async with running(bus):
            await watch.first(TaskEnded)
            await eventually(lambda: not failures)
    assert [(row["outcome"], row["attempt"]) for row in await runs(connection)] == [("done", 1)]


async def test_a_worker_without_the_feature_runs_no_task(database: str, connection: asyncpg.Connection) -> None:
    """N11."""
    async with open_bus(database, features=["events", "rpcs"]) as bus:

        async def background() -> None:
            raise AssertionError("not here")

        bus.client.every(milliseconds=1)(lambda: None)
        bus.client.add_background_task(background())
        async with running(bus):
            pass
    assert await connection.fetchval("SELECT count(*) FROM pgbus.schedules") == 0
