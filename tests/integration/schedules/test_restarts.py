"""Schedules over restarts of workers and changes of their rules."""

import asyncio
from datetime import datetime, timedelta

import asyncpg
import pytest

import pgbus
from pgbus.telemetry import TaskEnded, TaskStarted
from tests.support import eventually
from tests.support.tasks import declare, runs
from tests.support.workers import Watch, open_bus, running


async def have_been_due(connection: asyncpg.Connection, since: timedelta, name: str = "task") -> datetime:
    """Let a schedule be due since then, as if no worker had been up; returns that instant."""
    due_at = await connection.fetchval(
        "UPDATE pgbus.schedules SET next_run_at = now() - $2::interval WHERE schedule_name = $1 RETURNING next_run_at",
        name,
        since,
    )
    assert isinstance(due_at, datetime)
    return due_at


@pytest.mark.parametrize(
    ("missed", "expected"),
    [("once", [("done", 0)]), ("skip", [("skipped", 0)]), ("all", [("done", 0), ("done", 60), ("done", 120)])],
)
async def test_runs_that_were_missed_while_no_worker_was_up(
    bus: pgbus.Bus, connection: asyncpg.Connection, missed: str, expected: list[tuple[str, int]]
) -> None:
    @bus.client.every(minutes=1, name="task", missed=missed)  # type: ignore[arg-type]
    def task() -> None:
        pass

    await declare(bus)
    due_at = await have_been_due(connection, timedelta(seconds=130))
    watch = Watch(bus)
    async with running(bus):
        await watch.until(lambda _: len(watch.of(TaskEnded)) == len(expected))
        found = [(row["outcome"], round((row["due_at"] - due_at).total_seconds())) for row in await runs(connection)]
    assert found == expected
    following = await connection.fetchval("SELECT next_run_at FROM pgbus.timetable")
    if missed == "once":
        started = await connection.fetchval("SELECT started_at FROM pgbus.schedule_runs")
        assert following == started + timedelta(minutes=1)
    else:
        assert following == due_at + timedelta(minutes=3)


async def test_what_is_not_due_yet_keeps_its_time_over_a_restart(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    @bus.client.every(hours=5, name="task", also_run_immediately=True)
    def task() -> None:
        pass

    watch = Watch(bus)
    async with running(bus):
        await watch.first(TaskEnded)
    before = await connection.fetchval("SELECT next_run_at FROM pgbus.timetable")
    await declare(bus)
    assert await connection.fetchval("SELECT next_run_at FROM pgbus.timetable") == before
    assert len(await runs(connection)) == 1


async def test_another_interval_takes_the_place_of_the_old_one_and_is_logged(
    database: str, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pgbus")
    for hours in (5, 2):
        async with open_bus(database) as bus:
            bus.client.every(hours=hours, name="task")(lambda: None)
            async with running(bus):

                async def planned(limit: timedelta = timedelta(hours=hours)) -> bool:
                    row = await connection.fetchrow("SELECT next_run_at - now() AS wait FROM pgbus.timetable")
                    return row is not None and row["wait"] is not None and row["wait"] < limit + timedelta(minutes=1)

                await eventually(planned)
    assert "schedule task is new: every 18000 s" in caplog.text
    assert "schedule task is now every 7200 s, and was every 18000 s" in caplog.text


async def test_a_change_of_the_rule_while_a_run_is_in_hand_counts_from_its_end_on(
    database: str, connection: asyncpg.Connection
) -> None:
    going = asyncio.Event()
    async with open_bus(database) as old, open_bus(database) as new:

        @old.client.every(hours=24, name="task", also_run_immediately=True)
        async def task() -> None:
            await going.wait()

        new.client.every(hours=1, name="task")(lambda: None)
        watch = Watch(old)
        async with running(old):
            await watch.first(TaskStarted)
            async with running(new):
                going.set()

                async def planned() -> timedelta | None:
                    wait: timedelta | None = await connection.fetchval(
                        "SELECT next_run_at - now() FROM pgbus.timetable"
                    )
                    return wait

                wait = await eventually(planned)
    assert wait is not None
    assert timedelta(minutes=59) < wait < timedelta(hours=2)


async def test_a_service_has_schedules_of_its_own(database: str, connection: asyncpg.Connection) -> None:
    async with open_bus(database, service_name="shop") as bus:
        bus.client.every(hours=1, name="task")(lambda: None)
        await declare(bus)
    assert await connection.fetchval("SELECT schedule_name FROM pgbus.timetable WHERE service = 'shop'") == "shop-task"
