"""A worker's tasks: claims the runs of schedules when they are due, calls the functions, and says what came of it.

One loop looks when the next schedule is due, and at every poll; the row of a schedule decides which worker has the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias
from uuid import UUID, uuid4

from pgbus.aio.backoff import Backoff, RestartBackoff
from pgbus.aio.clock import now
from pgbus.aio.returned import finish
from pgbus.aio.tasks import call_on_failure, end_tasks, failure_of, is_being_cancelled
from pgbus.aio.threads import start
from pgbus.config import Config
from pgbus.database.faults import is_passing
from pgbus.database.store import Store
from pgbus.database.tries import LINK_PAUSE, LINK_PAUSE_LIMIT, Tries
from pgbus.errors import InvalidSchedule
from pgbus.handlers.contexts import TaskContext
from pgbus.handlers.outcomes import format_traceback, in_ascii
from pgbus.schedules.rules import Rule, Turn, parse_rule, take_turn
from pgbus.schedules.schedule import Background, Schedule, Task
from pgbus.telemetry import TaskEnded, TaskStarted, Telemetry

logger = logging.getLogger("pgbus")

# Seconds.
TOUCH_INTERVAL = 30.0
LOCKED_PAUSE = 0.1
# A run that broke off so often, as its worker died or stopped, is given up.
MAX_ATTEMPTS = 5

RunOutcome: TypeAlias = Literal["done", "failed", "skipped", "lost", "cancelled"]


@dataclass(slots=True, eq=False)
class Run:
    """A run in this worker's hands; `ending` says why it was broken off, if it was."""

    schedule: Schedule
    token: UUID
    rule: str
    turn: Turn
    attempt: int
    kept_until: float
    started: float = field(default_factory=time.monotonic)
    call: asyncio.Task[BaseException | None] | None = None
    ending: RunOutcome | None = None

    def break_off(self, ending: RunOutcome) -> None:
        """End it as soon as it can be.

        A thread cannot be stopped, only left, and that only when the worker stops: a next run must not begin beside it.
        """
        if not self.call or self.call.done():
            return
        self.ending = self.ending or ending
        if self.schedule.task.is_async or ending == "cancelled":
            self.call.cancel()


class Tasks:
    """Runs schedules and background tasks in one worker.

    `worker_id` is 0 while the worker has no session: without it a worker counts as dead, and its runs as broken off.
    `failed` is called when an error ends the loop, and `failure` tells which.
    """

    def __init__(
        self,
        store: Store,
        *,
        config: Config,
        telemetry: Telemetry,
        worker_id: Callable[[], int],
        failed: Callable[[], None],
    ) -> None:
        self._store = store
        self._failed = failed
        self._config = config
        self._telemetry = telemetry
        self._worker_id = worker_id
        self._schedules: dict[str, Schedule] = {}
        self._unregistered: set[str] = set()
        self._runs: dict[str, Run] = {}
        self._run_tasks: set[asyncio.Task[None]] = set()
        self._background: dict[Background, asyncio.Task[None]] = {}
        self._loop: asyncio.Task[None] | None = None
        self._stopping = False
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()
        self._extend_at = self._touch_at = 0.0
        self._started_at = 0.0

    # ------------------------------------------------------------------------------------------------------ life

    async def start(self, schedules: Iterable[Schedule], background: Iterable[Background]) -> None:
        """Run these, too, once they are registered; called again when the worker has a new session."""
        if self._stopping:
            return
        for schedule in schedules:
            if schedule.name not in self._schedules:
                self._schedules[schedule.name] = schedule
                self._unregistered.add(schedule.name)
        for one in background:
            if one not in self._background:
                self._background[one] = asyncio.create_task(self._run_background(one), name=f"pgbus {one.name}")
        self._extend_at = 0.0  # while our session was away, runs may have been taken over
        if self._schedules:
            if self._loop is None:
                self._started_at = now()
                await self._warn_of_namesake()
                self._loop = asyncio.create_task(self._look_loop(), name="pgbus tasks")
                call_on_failure(self._loop, self._failed)
            await self._register()
        self.wake()

    def wake(self) -> None:
        """Look at the schedules: an operator may have changed something."""
        self._wake.set()

    def failure(self) -> BaseException | None:
        """What ended the loop, which should never end by itself."""
        return failure_of([self._loop] if self._loop else [])

    @property
    def age(self) -> float:
        """Seconds since the loop began."""
        return now() - self._started_at

    async def break_off(self) -> None:
        """End the loop after a failure; `start` begins it again. What runs goes on."""
        loop, self._loop = self._loop, None
        if loop:
            await end_tasks(loop)

    async def stop(self, *, grace: float) -> None:
        """Begin no more runs, cancel the background, let runs finish for `grace` seconds; the rest is broken off."""
        self._stopping = True
        for task in self._background.values():
            task.cancel()
        await self._wait_for_runs(grace)
        self.abandon()
        await self._wait_for_runs(LINK_PAUSE_LIMIT)
        if self._loop:
            await end_tasks(self._loop)
        left = [*self._run_tasks, *self._background.values()]
        for task in left:
            task.cancel()
        if left:  # what the user wrote may take its time, or swallow the cancellation
            await asyncio.wait(left, timeout=LINK_PAUSE_LIMIT)

    def abandon(self) -> None:
        """Do not wait for running tasks any longer."""
        for run in self._runs.values():
            run.break_off("cancelled")

    async def _wait_for_runs(self, limit: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while self._run_tasks:
                    self._ended.clear()
                    await self._ended.wait()

    # ------------------------------------------------------------------------------------------------- schedules

    async def _look_loop(self) -> None:
        tries = Tries("look after schedules")
        while True:
            self._wake.clear()
            try:
                delay = await self._look()
                tries.worked()
            except Exception as error:
                delay = tries.pause_after(error)
                self._give_up_expired()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._wake.wait()

    async def _look(self) -> float:
        """Do what is due; in how many seconds to look again."""
        at = now()
        if self._runs and at >= self._extend_at:
            await self._extend_leases()
            self._extend_at = at + self._config.lease / 3
        longest = min(self._config.poll_interval, self._config.lease / 3)
        if self._stopping or not (worker_id := self._worker_id()):
            return longest
        await self._register()
        if at >= self._touch_at:
            await self._store.fetch("touch_schedules", schedule_names=list(self._schedules))
            self._touch_at = at + TOUCH_INTERVAL
        return min(longest, await self._claim(worker_id))

    async def _register(self) -> None:
        for name in tuple(self._unregistered):
            schedule = self._schedules[name]
            row = await self._store.fetch_one(
                "register_schedule",
                schedule_name=name,
                rule=str(schedule.rule),
                missed=schedule.missed,
                service=self._config.service_name,
                run_immediately=schedule.run_immediately,
            )
            self._unregistered.discard(name)
            if row["is_new"]:
                logger.info("schedule %s is new: %s", name, schedule.rule)
            elif row["old_rule"] != str(schedule.rule):
                logger.info("schedule %s is now %s, and was %s", name, schedule.rule, row["old_rule"])

    async def _warn_of_namesake(self) -> None:
        """Say that another service of our name runs: its schedules have the same names as ours."""
        for row in await self._store.fetch("find_namesake", service=self._config.service_name, home=self._config.home):
            logger.warning(
                "%s is of service %r too, which lies in %s, and this process in %s, so they share the runs of "
                "schedules of the same name. If they are two services, give each its own service_name",
                row["worker"], self._config.service_name, row["home"], self._config.home,
            )  # fmt: skip

    async def _claim(self, worker_id: int) -> float:
        """Claim what is due; in how many seconds the next one is."""
        names = [name for name in self._schedules if name not in self._runs]
        if not names:
            return self._config.poll_interval
        kept_until = now() + self._config.lease
        rows = await self._store.fetch(
            "claim_schedules",
            worker_id=worker_id,
            worker=self._config.process_name,
            schedule_names=names,
            tokens=[uuid4() for _ in names],
            running=[run.token for run in self._runs.values()],
            lease=self._config.lease,
        )
        # One that someone removed while it is declared here.
        self._unregistered |= set(names) - {row["schedule_name"] for row in rows}
        delays = [self._config.poll_interval] + [0.0] * len(self._unregistered)
        for row in rows:
            if row["claim_token"] and now() < kept_until:
                self._begin(row, kept_until=kept_until)
            elif row["next_run_at"] is None:
                delays.append(await self._set_next_run(row))
            elif row["state"] == "active" and not row["was_claimed"]:
                # Due and not claimed: someone is claiming it at this moment, or holds its row for longer.
                wait = (row["next_run_at"] - row["now"]).total_seconds()
                delays.append(wait if wait > 0 else LOCKED_PAUSE)
        return min(delays)

    async def _set_next_run(self, row: Any) -> float:
        next_run_at = self._rule(row).after(row["now"])
        await self._store.fetch(
            "set_next_run", schedule_name=row["schedule_name"], rule=row["rule"], next_run_at=next_run_at
        )
        return float((next_run_at - row["now"]).total_seconds())

    def _rule(self, row: Any) -> Rule:
        """The rule in the table, which may be that of a newer version of the code; it wins over ours."""
        declared = self._schedules[row["schedule_name"]].rule
        if row["rule"] == str(declared):
            return declared
        try:
            return parse_rule(row["rule"])
        except InvalidSchedule as error:
            logger.warning("schedule %s: %s; here it is %s", row["schedule_name"], error, declared)
            return declared

    async def _extend_leases(self) -> None:
        kept_until = now() + self._config.lease
        runs = list(self._runs.values())
        rows = await self._store.fetch(
            "extend_schedule_leases",
            schedule_names=[run.schedule.name for run in runs],
            running=[run.token for run in runs],
            lease=self._config.lease,
        )
        kept = {row["claim_token"] for row in rows}
        for run in runs:
            if run.token in kept:
                run.kept_until = kept_until
            else:
                run.break_off("lost")

    def _give_up_expired(self) -> None:
        """Break off what others may have taken over, as we could not keep it."""
        for run in self._runs.values():
            if now() >= run.kept_until:
                run.break_off("lost")

    # ------------------------------------------------------------------------------------------------------ runs

    def _begin(self, row: Any, *, kept_until: float) -> None:
        schedule = self._schedules[row["schedule_name"]]
        attempt = row["attempt"]
        turn = take_turn(
            self._rule(row), missed=row["missed"], due_at=row["next_run_at"], now=row["now"], again=attempt > 1
        )
        run = Run(schedule, row["claim_token"], row["rule"], turn, attempt, kept_until)
        self._runs[schedule.name] = run
        task = asyncio.create_task(self._carry_out(run), name=f"pgbus {schedule.name}")
        self._run_tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._run_tasks.discard(task)
        self._ended.set()
        if not task.cancelled() and (error := task.exception()):
            logger.error("a run could not be finished; it is begun again when its lease runs out", exc_info=error)

    async def _carry_out(self, run: Run) -> None:
        name = run.schedule.name
        self._telemetry.emit(TaskStarted(name, run.token))
        try:
            outcome, error = await self._outcome(run)
            if outcome != "lost":
                outcome = await self._finish(run, outcome, error)
            if outcome == "lost":
                logger.warning("schedule %s: the run was taken over, as this worker could not keep it", name)
        finally:
            del self._runs[name]
        self._telemetry.emit(TaskEnded(name, run.token, outcome, time.monotonic() - run.started))
        self.wake()

    async def _outcome(self, run: Run) -> tuple[RunOutcome, str | None]:
        name, due_at = run.schedule.name, run.turn.due_at
        if self._stopping:
            return "cancelled", None  # claimed while we were told to stop
        if not run.turn.runs:
            logger.warning("schedule %s: the run that was due at %s was missed, and is left out", name, _text(due_at))
            return "skipped", None
        if run.attempt > MAX_ATTEMPTS:
            logger.error("schedule %s: the run broke off %d times, and is given up", name, MAX_ATTEMPTS)
            return "skipped", f"its worker died or stopped {MAX_ATTEMPTS} times while it ran"
        context = TaskContext(name, due_at, run.attempt)
        run.call = asyncio.create_task(_attempt(run.schedule.task, context), name=f"pgbus {name}")
        await asyncio.wait([run.call])
        if run.ending:
            return run.ending, None
        error = asyncio.CancelledError("cancelled from within") if run.call.cancelled() else run.call.result()
        if error is None:
            return "done", None
        logger.error("schedule %s: the task failed", name, exc_info=error)
        return "failed", format_traceback(error)

    async def _finish(self, run: Run, outcome: RunOutcome, error: str | None) -> RunOutcome:
        """Write it down, however long the database is away; what became of the run in the end."""
        backoff = Backoff(LINK_PAUSE, LINK_PAUSE_LIMIT)
        in_doubt = False
        while True:
            try:
                rows = await self._store.fetch(
                    "finish_schedule_run",
                    schedule_name=run.schedule.name,
                    token=run.token,
                    rule=run.rule,
                    outcome=outcome,
                    error=error,
                    due_at=run.turn.due_at,
                    next_run_at=run.turn.next_run_at,
                )
            except Exception as problem:
                if is_passing(problem):
                    in_doubt = True  # it may have been written, and only the answer was lost
                else:
                    logger.error(
                        "schedule %s: the database refuses the outcome of a run, tried again: %s",
                        run.schedule.name, problem,
                    )  # fmt: skip
                    error = error and in_ascii(error)
                await asyncio.sleep(backoff.next())
            else:
                return outcome if rows or in_doubt else "lost"

    # ------------------------------------------------------------------------------------------------ background

    async def _run_background(self, background: Background) -> None:
        """Run it to its end; a function that fails is called again, after a pause that grows."""
        if task := background.task:
            await self._keep_up(background.name, task)
        elif (awaitable := background.take()) and (error := await _outcome_of(finish(awaitable, background.name))):
            logger.error("background task %s failed, and is not started again", background.name, exc_info=error)

    async def _keep_up(self, name: str, task: Task) -> None:
        backoff = RestartBackoff()
        while True:
            started = now()
            error = await _attempt(task, None)
            if error is None:
                return
            pause = backoff.next_after(age=now() - started)
            logger.error("background task %s failed, and starts again in %.1f s", name, pause, exc_info=error)
            await asyncio.sleep(pause)


async def _attempt(task: Task, context: TaskContext | None) -> BaseException | None:
    """Call a task, a plain function in a thread of its own; what it raised, were it a SystemExit."""
    if task.is_async:
        return await _outcome_of(_call(task, context))
    threads = ThreadPoolExecutor(1, thread_name_prefix="pgbus-task")
    future = start(threads, lambda: task.call(context))
    threads.shutdown(wait=False)  # its one thread ends with the function
    attempt = await asyncio.shield(future)
    return await _outcome_of(task.finish(attempt.value)) if attempt.error is None else attempt.error


async def _call(task: Task, context: TaskContext | None) -> None:
    await task.finish(task.call(context))


async def _outcome_of(awaitable: Any) -> BaseException | None:
    try:
        await awaitable
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
            raise
        return error
    return None


def _text(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%SZ}"
