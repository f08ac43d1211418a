"""Schedules in workers: when each runs, and never twice."""

import asyncio
import itertools
import threading
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial

import asyncpg
import pytest

import pgbus
from pgbus.schedules.rules import Every, take_turn
from pgbus.telemetry import Happening, TaskEnded
from tests.support import eventually
from tests.support.tasks import begun, runs
from tests.support.workers import Inbox, Watch, open_bus, running


async def test_an_interval_runs_again_and_again_at_its_distance_and_is_in_the_history(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    inbox: Inbox[pgbus.TaskContext] = Inbox()

    @bus.client.every(milliseconds=150, name="task")
    async def task(context: pgbus.TaskContext) -> None:
        inbox.put(context)

    watch = Watch(bus)
    async with running(bus):
        await watch.until(lambda _: len(watch.of(TaskEnded)) >= 4)
    found = await begun(connection)
    assert [row["due_at"] for row in found] == [context.due_at for context in inbox.items]
    assert {context.schedule_name for context in inbox.items} == {"task"}
    assert all(row["outcome"] == "done" and row["attempt"] == 1 for row in found)
    assert all(row["worker"] == bus.config.process_name for row in found)
    assert all(row["due_at"] <= row["started_at"] <= row["finished_at"] for row in found)
    # Either on the beat, or, when this machine was slow, an interval after a late start.
    for before, after in itertools.pairwise(found):
        assert after["due_at"] - before["due_at"] >= timedelta(milliseconds=150)


async def test_the_first_run_is_after_one_interval_or_at_once_if_that_is_asked_for(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    inbox: Inbox[str] = Inbox()

    @bus.client.every(hours=1, name="later")
    def later() -> None:
        inbox.put("later")

    @bus.client.every(hours=1, name="now", also_run_immediately=True)
    def now() -> None:
        inbox.put("now")

    async with running(bus):
        await inbox.take(1)

        async def planned() -> bool:
            return await connection.fetchval("SELECT count(next_run_at) = 2 FROM pgbus.timetable") is True

        await eventually(planned)
    assert inbox.items == ["now"]
    rows = await connection.fetch("SELECT next_run_at - now() AS wait FROM pgbus.timetable")
    assert all(timedelta(minutes=59) < row["wait"] <= timedelta(hours=1) for row in rows)


async def test_a_cron_expression_is_due_by_its_own_clock(bus: pgbus.Bus, connection: asyncpg.Connection) -> None:
    @bus.client.schedule("30 3 * * *", timezone="Asia/Kolkata", name="task")
    def task() -> None:
        raise AssertionError("not yet")

    async with running(bus):

        async def planned() -> datetime | None:
            found: datetime | None = await connection.fetchval("SELECT next_run_at FROM pgbus.timetable")
            return found

        due_at = await eventually(planned)
    assert due_at is not None
    assert (due_at.hour, due_at.minute) == (22, 0)
    assert due_at > datetime.now(UTC)
    assert await connection.fetchval("SELECT rule FROM pgbus.timetable") == "30 3 * * * in Asia/Kolkata"


async def test_three_workers_run_each_interval_once(database: str, connection: asyncpg.Connection) -> None:
    """N18, with the workers in one process."""
    started: Inbox[str] = Inbox()
    async with AsyncExitStack() as stack:
        watches = []
        for number in range(3):
            bus = await stack.enter_async_context(open_bus(database, process_name=f"worker {number}"))

            @bus.client.every(milliseconds=200, name="task", also_run_immediately=True)
            async def task(context: pgbus.TaskContext) -> None:
                started.put(str(context.due_at))

            watches.append(Watch(bus))
            await stack.enter_async_context(running(bus))
        await started.take(8)
    found = await begun(connection)
    assert len(found) == len(started.items) == len(set(started.items))
    for before, after in itertools.pairwise(found):
        assert before["finished_at"] <= after["started_at"]
        assert after["due_at"] - before["due_at"] >= timedelta(milliseconds=200)
    assert all(row["outcome"] == "done" for row in found)


async def test_a_run_longer_than_its_interval_never_overlaps_and_is_followed_by_one(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    going = asyncio.Event()
    called: Inbox[str] = Inbox()

    @bus.client.every(milliseconds=50, name="task")
    async def task() -> None:
        called.put("called")
        await going.wait()

    async with running(bus):
        await called.take(1)
        due_at = (await runs(connection))[0]["due_at"]

        async def intervals_passed() -> bool:
            return await connection.fetchval("SELECT now() > $1", due_at + timedelta(milliseconds=300)) is True

        await eventually(intervals_passed)
        assert called.items == ["called"]
        going.set()
        await called.take(3)
    first, second, third = (await runs(connection))[:3]
    assert first["finished_at"] <= second["started_at"]
    # Not simply an interval later: on a busy machine a run may begin so late that its own interval is over.
    for before, after in ((first, second), (second, third)):
        turn = take_turn(
            Every(timedelta(milliseconds=50)), missed="once", due_at=before["due_at"], now=before["started_at"]
        )
        assert after["due_at"] == turn.next_run_at


async def test_a_plain_function_runs_in_a_thread_where_it_may_block(bus: pgbus.Bus) -> None:
    inbox: Inbox[tuple[bool, pgbus.EventMessage]] = Inbox()

    @bus.client.every(milliseconds=20)
    def task(client: pgbus.BusClient) -> None:
        assert client is bus.client
        inbox.put((threading.current_thread() is threading.main_thread(), bus.publish_sync({}, topic="shop.counted")))

    async with running(bus):
        (on_main_thread, message), *_ = await inbox.take(1)
    assert not on_main_thread
    assert message.topic == "shop.counted"


async def test_an_exception_is_kept_in_the_history_and_stops_nothing(
    bus: pgbus.Bus, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    @bus.client.every(milliseconds=20, name="async task")
    async def wrong() -> None:
        raise ValueError("no such luck")

    @bus.client.every(milliseconds=20, name="plain task")
    def wrong_too() -> None:
        raise SystemExit(3)

    @bus.client.every(milliseconds=20, name="cancelled task")
    async def cancelled() -> None:
        raise asyncio.CancelledError

    watch = Watch(bus)
    names = ("async task", "plain task", "cancelled task")
    async with running(bus) as worker:
        for name in names:
            await watch.until(partial(_ended_twice, name))
        assert worker.ready.is_set()
    for name, error in zip(names, ("ValueError: no such luck", "SystemExit: 3", "CancelledError"), strict=True):
        row = (await runs(connection, name))[0]
        assert row["outcome"] == "failed"
        assert error in row["error"]
        assert "Traceback" in row["error"]
        assert f"schedule {name}: the task failed" in caplog.text


def _ended_twice(name: str, happenings: list[Happening]) -> bool:
    return sum(isinstance(one, TaskEnded) and one.schedule_name == name for one in happenings) >= 2


async def test_a_task_that_is_declared_while_the_worker_runs_starts_at_once(bus: pgbus.Bus) -> None:
    inbox: Inbox[str] = Inbox()
    async with running(bus):

        def declare() -> None:
            @bus.client.every(milliseconds=20)
            def task() -> None:
                inbox.put("ran")

        await asyncio.to_thread(declare)
        await inbox.take(2)


async def test_a_random_interval_of_the_schedule_library_is_drawn_anew_each_time(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    """S10."""
    import schedule

    job = schedule.every(1).to(3).seconds

    @bus.client.schedule(job, also_run_immediately=True, name="task")
    def task() -> None:
        pass

    watch = Watch(bus)
    async with running(bus):
        await watch.first(TaskEnded)
    # Between a run and the next one, which is given back if it was claimed as the worker began to stop.
    [row] = await connection.fetch(
        """
        SELECT t.rule, t.next_run_at - max(h.due_at) FILTER (WHERE h.outcome = 'done') AS wait
        FROM pgbus.timetable AS t JOIN pgbus.schedule_history AS h ON h.schedule_name = t.schedule_name
        GROUP BY t.rule, t.next_run_at
        """
    )
    assert row["rule"] == "every 1 to 3 s"
    # At most 3 s after it was claimed, which a busy machine does late.
    assert timedelta(seconds=1) <= row["wait"] <= timedelta(seconds=30)
