"""Operators and schedules: `admin.schedules`, `pgbus schedules`, and who may do what."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import pgbus
from pgbus import migrate
from pgbus.admin import Admin
from pgbus.errors import InUseError, NotRegisteredError
from pgbus.telemetry import TaskEnded, TaskStarted
from tests.conftest import Connect
from tests.integration.conftest import Invoke
from tests.support import eventually
from tests.support.maintenance import make_maintenance
from tests.support.workers import Inbox, Watch, open_bus, running


@pytest.fixture
async def admin(bus: pgbus.Bus) -> AsyncIterator[Admin]:
    async with Admin.connect(bus.config) as connected:
        yield connected


@asynccontextmanager
async def a_worker(bus: pgbus.Bus) -> AsyncIterator[Inbox[pgbus.TaskContext]]:
    """A worker with an hourly task; what its runs were told."""
    inbox: Inbox[pgbus.TaskContext] = Inbox()

    @bus.client.every(hours=1, name="task", missed="all")
    async def task(context: pgbus.TaskContext) -> None:
        inbox.put(context)

    async with running(bus):
        yield inbox


async def test_a_schedule_runs_when_an_operator_says_so(bus: pgbus.Bus, admin: Admin) -> None:
    watch = Watch(bus)
    async with a_worker(bus) as inbox:
        await admin.schedules.run("task")
        [context] = await inbox.take(1)
        await watch.first(TaskEnded)
        [status] = (await admin.status()).schedules
        [run] = await admin.schedules.history("task")
    assert (status.schedule_name, status.rule, status.missed, status.state) == ("task", "every 3600 s", "all", "active")
    assert status.next_run_at is not None
    assert (status.next_run_at - context.due_at).total_seconds() == 3600
    assert status.last_started_at == run.started_at
    assert (status.last_outcome, status.last_duration) == (run.outcome, run.duration)
    assert (run.outcome, run.due_at, run.attempt, run.worker) == ("done", context.due_at, 1, bus.config.process_name)


async def test_a_paused_schedule_does_not_run_and_makes_up_for_nothing(
    bus: pgbus.Bus, admin: Admin, database: str, connect: Connect
) -> None:
    connection = await connect(database)
    async with a_worker(bus) as inbox:
        await admin.schedules.pause("task")
        await connection.execute("UPDATE pgbus.schedules SET next_run_at = now() - interval '5 hours'")
        with pytest.raises(InUseError, match="resume it first"):
            await admin.schedules.run("task")
        bus.client.every(milliseconds=20, name="other")(lambda: None)
        await Watch(bus).first(TaskEnded)
        await admin.schedules.resume("task")

        async def planned() -> bool:
            query = "SELECT next_run_at > now() FROM pgbus.timetable WHERE schedule_name = 'task'"
            return await connection.fetchval(query) is True

        await eventually(planned)
        await admin.schedules.resume("task")  # it is not paused, and keeps its time
    assert inbox.items == []
    assert [status.state for status in await admin.schedules.list()] == ["active", "active"]


async def test_a_schedule_is_not_run_twice_at_once(bus: pgbus.Bus, admin: Admin) -> None:
    going = asyncio.Event()

    @bus.client.every(hours=1, name="task", also_run_immediately=True)
    async def task() -> None:
        await going.wait()

    watch = Watch(bus)
    async with running(bus):
        await watch.first(TaskStarted)
        with pytest.raises(InUseError, match="never overlap"):
            await admin.schedules.run("task")
        [status] = await admin.schedules.list()
        assert (status.running, status.running_on, status.next_run_at) == (True, bus.config.process_name, None)
        assert status.last_outcome == "running"
        going.set()
        await watch.first(TaskEnded)


async def test_a_schedule_is_removed_when_nobody_declares_it_and_its_history_stays(
    bus: pgbus.Bus, admin: Admin
) -> None:
    async with a_worker(bus) as inbox:
        await admin.schedules.run("task")
        await inbox.take(1)
        with pytest.raises(InUseError, match="would register it again"):
            await admin.schedules.remove("task")
        await admin.schedules.remove("task", force=True)

        async def is_back() -> bool:
            return [one.schedule_name for one in await admin.schedules.list()] == ["task"]

        await eventually(is_back)  # the worker declares it, so it is
    await admin.schedules.remove("task")
    assert await admin.schedules.list() == ()
    assert len(await admin.schedules.history("task")) == 1


async def test_removing_a_schedule_that_runs_ends_its_run_as_lost(bus: pgbus.Bus, admin: Admin) -> None:
    going = asyncio.Event()

    @bus.client.every(hours=1, name="task", also_run_immediately=True)
    async def task() -> None:
        await going.wait()

    watch = Watch(bus)
    async with running(bus):
        await watch.first(TaskStarted)
        await admin.schedules.remove("task", force=True)
        going.set()
        assert (await watch.first(TaskEnded)).outcome == "lost"
    assert [run.outcome for run in (await admin.schedules.history("task"))[-1:]] == ["lost"]


async def test_a_schedule_that_there_is_not_is_an_error_with_the_close_names(bus: pgbus.Bus, admin: Admin) -> None:
    async with a_worker(bus):
        pass
    verbs = admin.schedules
    for verb in (verbs.pause, verbs.resume, verbs.run, verbs.remove, verbs.history):
        with pytest.raises(NotRegisteredError, match="did you mean 'task'"):
            await verb("taks")
    assert await verbs.history("task") == ()


async def test_runs_are_forgotten_after_their_retention(bus: pgbus.Bus, database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with a_worker(bus):
        pass
    await connection.execute(
        """
        INSERT INTO pgbus.schedule_runs
            (run_id, schedule_name, due_at, attempt, worker, started_at, finished_at, outcome)
        SELECT gen_random_uuid(), 'task', at, 1, 'w', at, at, 'done'
        FROM (SELECT now() - n * interval '1 day' AS at FROM generate_series(0, 9) AS n) AS days;
        UPDATE pgbus.schedules
        SET claim_token = r.run_id, worker_id = 1, lease_expires_at = now(), next_run_at = now()
        FROM (SELECT run_id FROM pgbus.schedule_runs ORDER BY started_at LIMIT 1) AS r
        """
    )
    config = pgbus.Config(dsn=database, schedule_retention=4.5 * 86_400)
    await make_maintenance(connection, config=config).do_chores()
    # What is in hand stays.
    assert await connection.fetchval("SELECT count(*) FROM pgbus.schedule_history") == 6


# ------------------------------------------------------------------------------------------------------------- programs


async def test_the_command_lists_pauses_resumes_runs_and_removes(bus: pgbus.Bus, invoke: Invoke) -> None:
    async def pgbus_schedules(*arguments: str) -> str:
        done = await invoke("schedules", *arguments, columns=200)
        assert done.exit_code == 0, done.stderr
        return done.stdout

    assert "no schedules" in await pgbus_schedules("list")
    watch = Watch(bus)
    async with a_worker(bus):
        assert await pgbus_schedules("run", "task") == "due now task\n"
        await watch.first(TaskEnded)
    assert await pgbus_schedules("pause", "task") == "paused task\n"
    assert json.loads(await pgbus_schedules("list", "--json"))["state"] == "paused"
    assert await pgbus_schedules("resume", "task") == "resumed task\n"
    listed = await pgbus_schedules("list")
    assert "every 3600 s" in listed
    assert "done" in listed
    assert "done" in await pgbus_schedules("history", "task")
    assert json.loads(await pgbus_schedules("history", "task", "--json"))["outcome"] == "done"
    assert "every 3600 s" in (await invoke("status")).stdout
    assert await pgbus_schedules("remove", "task", "--force", "--yes") == "removed task\n"
    done = await invoke("schedules", "pause", "task")
    assert done.exit_code == 1
    assert "there is no schedule 'task'" in done.stderr


# --------------------------------------------------------------------------------------------------------------- grants


async def test_a_member_of_the_workers_role_runs_schedules(database: str, bus: pgbus.Bus, connect: Connect) -> None:
    owner = await connect(database)
    roles = f"r{bus.config.process_name[-6:]}".replace("-", "_").lower()
    namespace = f"{roles}_{id(bus) % 10_000}"
    try:
        await asyncio.to_thread(migrate.upgrade, database, namespace=namespace)
        await asyncio.to_thread(migrate.grant_roles, database, namespace=namespace)
        await owner.execute(f"CREATE ROLE {namespace}_user LOGIN IN ROLE {namespace}_worker")
        dsn = database.replace("postgres@", f"{namespace}_user@")
        async with open_bus(dsn, namespace=namespace) as theirs:
            watch = Watch(theirs)
            theirs.client.every(milliseconds=20)(lambda: None)
            async with running(theirs):
                await watch.first(TaskEnded, after=1)
    finally:
        await owner.execute(f"DROP SCHEMA IF EXISTS {namespace} CASCADE")
        for row in await owner.fetch("SELECT rolname FROM pg_roles WHERE rolname LIKE $1", f"{namespace}\\_%"):
            await owner.execute(f"DROP OWNED BY {row['rolname']}; DROP ROLE {row['rolname']}")
