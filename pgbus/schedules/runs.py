"""The runs of schedules in one worker's hands: their tasks are called, and what became of them is written down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Literal, TypeAlias
from uuid import UUID

import msgspec

from pgbus.aio.backoff import Backoff
from pgbus.aio.clock import now
from pgbus.causality import caused_by
from pgbus.database.faults import is_passing
from pgbus.database.statements import schedules as statements
from pgbus.database.store import Store
from pgbus.database.tries import LINK_PAUSE, LINK_PAUSE_LIMIT
from pgbus.handlers.contexts import TaskContext
from pgbus.handlers.failures import Failures
from pgbus.handlers.outcomes import describe, format_traceback, in_ascii
from pgbus.schedules.calling import attempt
from pgbus.schedules.rules import Turn
from pgbus.schedules.schedule import Schedule
from pgbus.telemetry import Instruments, TaskEnded, TaskStarted, Telemetry
from pgbus.telemetry import instruments as operations

logger = logging.getLogger("pgbus")

# A run that broke off so often, as its worker died or stopped, is given up.
MAX_ATTEMPTS = 5

RunOutcome: TypeAlias = Literal["done", "failed", "skipped", "lost", "cancelled"]


class Run(msgspec.Struct, eq=False, kw_only=True):
    """A claimed run. `rule` is the one by which its `turn` was worked out.

    Past `kept_until`, an instant of the engine's clock, another worker may have taken it over. `ending` says why it was
    broken off, if it was; `call` is the call of its task, while there is one.
    """

    schedule: Schedule
    token: UUID
    rule: str
    turn: Turn
    attempt: int
    kept_until: float
    started: float = msgspec.field(default_factory=time.monotonic)
    call: asyncio.Task[BaseException | None] | None = None
    ending: RunOutcome | None = None

    def break_off(self, ending: RunOutcome) -> None:
        """End it as soon as it can be.

        A thread cannot be stopped; it is abandoned only when the worker stops, because the next run must not overlap
        it.
        """
        if not self.call or self.call.done():
            return
        self.ending = self.ending or ending
        if self.schedule.task.is_async or ending == "cancelled":
            self.call.cancel()


class Runs:
    """Carries out runs, one per schedule at a time; `ended` is called after each, when its row is free again."""

    def __init__(
        self, store: Store, *, telemetry: Telemetry, instruments: Instruments, ended: Callable[[], None]
    ) -> None:
        self._store = store
        self._instruments = instruments
        self._telemetry = telemetry
        self._ended = ended
        # By schedule. A run stays in here until its outcome is written, so that its lease is extended, and no other run
        # of its schedule is claimed here.
        self._runs: dict[str, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # Set when a run has ended; `wait` clears it before each look.
        self._changed = asyncio.Event()
        # Set by `stop`: a claim may be under way at that moment, whose run must not begin.
        self._is_stopping = False
        self._failures = Failures()

    def __contains__(self, schedule_name: str) -> bool:
        return schedule_name in self._runs

    @property
    def under_way(self) -> Sequence[Run]:
        """The runs that are not written down yet."""
        return list(self._runs.values())

    def begin(self, run: Run) -> None:
        """Carry out a run that was claimed."""
        name = run.schedule.name
        self._runs[name] = run
        task = asyncio.create_task(self._carry_out(run), name=f"pgbus {name}")
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def give_up_expired(self) -> None:
        """Break off runs whose lease has expired: another worker may have taken them over."""
        for run in self._runs.values():
            if now() >= run.kept_until:
                run.break_off("lost")

    def stop(self) -> None:
        """Call no more tasks; current ones continue."""
        self._is_stopping = True

    def abandon(self) -> None:
        """Break off whatever runs: it is due again, for another worker."""
        for run in self._runs.values():
            run.break_off("cancelled")

    async def wait(self, limit: float) -> None:
        """Wait until all are written down, for at most `limit` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while self._tasks:
                    self._changed.clear()
                    await self._changed.wait()

    def cancel(self) -> list[asyncio.Task[None]]:
        """Cancel the runs that are left; returns their tasks, which end when the user's code lets them."""
        for task in self._tasks:
            task.cancel()
        return list(self._tasks)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._changed.set()
        if not task.cancelled() and (error := task.exception()):
            logger.error(
                "the outcome of a run could not be written; the run is started again when its lease expires",
                exc_info=error,
            )

    # ------------------------------------------------------------------------------------------------------ one run

    async def _carry_out(self, run: Run) -> None:
        name = run.schedule.name
        self._telemetry.emit(TaskStarted(name, run.token))
        try:
            outcome, error = await self._outcome(run)
            # Until this is written the row has the run as claimed, and still due: if we die here, the leader frees it,
            # and it runs again.
            if outcome != "lost":
                outcome = await self._finish(run, outcome, error)
            if outcome == "lost":
                logger.warning(
                    "schedule %s: another worker took over the run, because this worker could not extend its lease",
                    name,
                )
        finally:
            del self._runs[name]
        self._telemetry.emit(TaskEnded(name, run.token, outcome, time.monotonic() - run.started))
        self._ended()

    async def _outcome(self, run: Run) -> tuple[RunOutcome, str | None]:
        name, due_at = run.schedule.name, run.turn.due_at
        if self._is_stopping:
            return "cancelled", None  # claimed while the worker began to stop
        if not run.turn.runs:
            logger.warning("schedule %s: the run that was due at %s was missed, and is skipped", name, _text(due_at))
            return "skipped", None
        if run.attempt > MAX_ATTEMPTS:
            logger.error("schedule %s: the run was interrupted %d times, and is skipped", name, MAX_ATTEMPTS)
            return "skipped", f"its worker died or stopped {MAX_ATTEMPTS} times while it ran"
        context = TaskContext(name, due_at, run.attempt, run.token)
        with caused_by(context):  # the task inherits it
            run.call = asyncio.create_task(self._attempt(run, context), name=f"pgbus {name}")
        # Not `await run.call`: a cancellation of the call, which is a run that was broken off, would look like one of
        # this task.
        await asyncio.wait([run.call])
        if run.ending:
            return run.ending, None
        error = asyncio.CancelledError("cancelled from within") if run.call.cancelled() else run.call.result()
        if error is None:
            return "done", None
        self._failures.log(
            logging.ERROR,
            f"schedule {name}:",
            f"the task failed: {describe(error)}",
            error=error,
            fields={
                "schedule_name": name,
                "run_id": str(run.token),
                "due_at": _text(due_at),
                "attempt": run.attempt,
                "correlation_id": context.cause.correlation_id,
            },
        )
        return "failed", format_traceback(error)

    async def _attempt(self, run: Run, context: TaskContext) -> BaseException | None:
        """Call the task, within instruments; returns the exception that it raised, or None."""
        if not self._instruments.all:
            return await attempt(run.schedule.task, context)
        operation = operations.Run(run.schedule.name, run.rule, run.token, context.due_at, context.attempt)
        error: BaseException | None = None
        try:
            with self._instruments.around(operation):
                if error := await attempt(run.schedule.task, context):
                    raise error
        except BaseException as raised:
            if raised is not error:
                raise
        return error

    async def _finish(self, run: Run, outcome: RunOutcome, error: str | None) -> RunOutcome:
        """Write the outcome, however long the database is away; returns the outcome that was written."""
        backoff = Backoff(LINK_PAUSE, LINK_PAUSE_LIMIT)
        in_doubt = False
        while True:
            try:
                is_ours = await statements.finish_schedule_run(
                    self._store,
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
                        "schedule %s: the database refuses the outcome of a run, and it is tried again: %s",
                        run.schedule.name, problem,
                    )  # fmt: skip
                    error = error and in_ascii(error)
                await asyncio.sleep(backoff.next())
            else:
                return outcome if is_ours or in_doubt else "lost"


def _text(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%SZ}"
