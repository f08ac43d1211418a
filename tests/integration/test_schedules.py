"""Schedules in workers on a real database."""

import asyncio
import itertools
import threading
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial

import asyncpg
import pytest

import pgbus
from pgbus.admin import Admin
from pgbus.telemetry import Happening, SessionOpened, TaskEnded, TaskStarted
from tests.support import eventually
from tests.support.faultproxy import FaultProxy
from tests.support.workers import PATIENCE, Inbox, Watch, open_bus, running


async def runs(connection: asyncpg.Connection, name: str = "task") -> list[asyncpg.Record]:
    rows: list[asyncpg.Record] = await connection.fetch(
        "SELECT * FROM pgbus.schedule_history WHERE schedule_name = $1 ORDER BY started_at", name
    )
    return rows


async def have_been_due(connection: asyncpg.Connection, since: timedelta, name: str = "task") -> datetime:
    """Let a schedule be due since then, as if no worker had been up; returns that instant."""
    due_at = await connection.fetchval(
        "UPDATE pgbus.schedules SET next_run_at = now() - $2::interval WHERE schedule_name = $1 RETURNING next_run_at",
        name,
        since,
    )
    assert isinstance(due_at, datetime)
    return due_at


async def declare(bus: pgbus.Bus) -> None:
    """Register the bus's schedules, and go."""
    async with running(bus):
        pass


# ------------------------------------------------------------------------------------------------------------ running


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
    found = await runs(connection)
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
    found = await runs(connection)
    assert len(found) == len(started.items) == len(set(started.items))
    for before, after in itertools.pairwise(found):
        assert before["finished_at"] <= after["started_at"]
        assert after["due_at"] - before["due_at"] >= timedelta(milliseconds=200)
    assert all(row["outcome"] == "done" for row in found)


async def test_a_run_longer_than_its_interval_never_overlaps_and_is_followed_by_one(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    going = asyncio.Event()
    begun: Inbox[str] = Inbox()

    @bus.client.every(milliseconds=50, name="task")
    async def task() -> None:
        begun.put("begun")
        await going.wait()

    async with running(bus):
        await begun.take(1)
        due_at = (await runs(connection))[0]["due_at"]

        async def intervals_passed() -> bool:
            return await connection.fetchval("SELECT now() > $1", due_at + timedelta(milliseconds=300)) is True

        await eventually(intervals_passed)
        assert begun.items == ["begun"]
        going.set()
        await begun.take(3)
    first, second, third = (await runs(connection))[:3]
    assert first["finished_at"] <= second["started_at"]
    assert second["due_at"] == first["due_at"] + timedelta(milliseconds=50)
    assert third["due_at"] - second["started_at"] >= timedelta(milliseconds=50)


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
    # Between the end of a run and the start of the next one.
    [row] = await connection.fetch(
        """
        SELECT t.rule, t.next_run_at - max(h.due_at) AS wait
        FROM pgbus.timetable AS t JOIN pgbus.schedule_history AS h ON h.schedule_name = t.schedule_name
        GROUP BY t.rule, t.next_run_at
        """
    )
    assert row["rule"] == "every 1 to 3 s"
    assert timedelta(seconds=1) <= row["wait"] <= timedelta(seconds=3)


# ------------------------------------------------------------------------------------------------- restarts and changes


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


# ---------------------------------------------------------------------------------------------------- workers that end


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
    async with open_bus(database, lease=1) as bus:
        going = asyncio.Event()

        @bus.client.every(hours=1, name="task", also_run_immediately=True)
        async def task() -> None:
            await going.wait()

        watch = Watch(bus)
        async with running(bus):
            await watch.first(TaskStarted)

            async def outlived() -> bool:
                return (
                    await connection.fetchval(
                        """
                        SELECT r.started_at + interval '3 seconds' < now() AND s.lease_expires_at > now()
                        FROM pgbus.schedules AS s JOIN pgbus.schedule_runs AS r ON r.run_id = s.claim_token
                        """
                    )
                    is True
                )

            await eventually(outlived)
            going.set()
            assert (await watch.first(TaskEnded)).outcome == "done"


async def test_a_plain_function_that_lost_its_claim_is_waited_for(
    database: str, connection: asyncpg.Connection
) -> None:
    begun: Inbox[int] = Inbox()
    going = threading.Event()
    async with open_bus(database, lease=1) as bus:

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
                query = "SELECT max(started_at) + interval '2 seconds' < now() FROM pgbus.schedule_runs"
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


# ----------------------------------------------------------------------------------------------------------- background


async def test_background_tasks_run_from_start_to_end_of_a_worker(bus: pgbus.Bus) -> None:
    inbox: Inbox[str] = Inbox()

    async def tick(word: str) -> None:
        inbox.put(word)
        try:
            await asyncio.Event().wait()
        finally:
            inbox.put(f"end of {word}")

    async def with_client(client: pgbus.BusClient) -> None:
        assert client is bus.client
        await tick("function")

    @bus.client.on_start()
    def begin(client: pgbus.BusClient) -> None:
        client.add_background_task(tick("coroutine"))
        client.add_background_task(with_client)

    async with running(bus):
        await inbox.take(2)
        bus.client.add_background_task(lambda: inbox.put("late and plain"))
        await inbox.take(3)
    assert sorted(inbox.items) == ["coroutine", "end of coroutine", "end of function", "function", "late and plain"]


async def test_a_background_function_that_fails_is_started_again_and_a_coroutine_is_not(
    bus: pgbus.Bus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pgbus.aio.backoff.RESTART_PAUSE", 0.01)
    inbox: Inbox[str] = Inbox()

    async def fail(word: str) -> None:
        inbox.put(word)
        raise SystemExit(word)

    def function() -> None:
        inbox.put("function")
        raise ValueError("function")

    bus.client.add_background_task(fail("coroutine"))
    bus.client.add_background_task(function)
    async with running(bus):
        await inbox.until(lambda items: items.count("function") >= 3)
    assert inbox.items.count("coroutine") == 1
    assert "fail failed, and is not started again" in caplog.text
    assert "function failed, and starts again in 0.0 s" in caplog.text


# -------------------------------------------------------------------------------------------------------- declarations


async def test_two_schedules_of_one_name_are_refused(bus: pgbus.Bus) -> None:
    bus.client.every(hours=1, name="task")(lambda: None)
    with pytest.raises(pgbus.DuplicateScheduleName):
        bus.client.schedule("@daily", name="task")(lambda: None)


async def test_the_second_of_two_functions_of_one_name_is_told_to_take_a_name_of_its_own(bus: pgbus.Bus) -> None:
    def do_it() -> None: ...

    bus.client.every(seconds=1)(do_it)
    with pytest.raises(pgbus.DuplicateScheduleName, match=r"as in every\(\.\.\., name='do_it_2'\)"):
        bus.client.every(minutes=1)(do_it)
    bus.client.every(minutes=1, name="do_it_2")(do_it)
