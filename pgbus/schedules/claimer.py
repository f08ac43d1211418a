"""Claiming the runs of schedules: one loop looks when the next one is due, and at every poll.

The row of a schedule decides which worker has the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Iterable
from datetime import datetime
from uuid import uuid4

from pgbus.aio.clock import now
from pgbus.aio.tasks import wait_for_first
from pgbus.config import Config
from pgbus.database.statements import schedules as statements
from pgbus.database.statements.schedules import FoundSchedule, ScheduleClaim
from pgbus.database.store import Store
from pgbus.database.tries import Tries
from pgbus.errors import InvalidSchedule
from pgbus.schedules.rules import Rule, parse_rule, take_turn
from pgbus.schedules.runs import Run, Runs
from pgbus.schedules.schedule import Schedule

logger = logging.getLogger("pgbus")

# Seconds between the times that the schedules are marked as declared. An operator may remove one that was not marked
# for a minute (`operate_on_schedule`), so one mark may fail.
TOUCH_INTERVAL = 30.0
# Seconds until the next look at a schedule that is due, and whose row someone else holds.
LOCKED_PAUSE = 0.1
LONGEST_WAIT = 86_400.0


class Claimer:
    """Registers schedules, claims their runs for `runs` to carry out, and keeps the claims.

    `worker_id` is 0 while the worker has no session: without it a worker counts as dead, and its runs as broken off.
    `is_asleep` tells whether the bus sleeps: then it looks no more before a run is due.
    """

    def __init__(
        self,
        store: Store,
        *,
        config: Config,
        worker_id: Callable[[], int],
        is_asleep: Callable[[], bool],
        runs: Runs,
    ) -> None:
        self._store = store
        self._config = config
        self._worker_id = worker_id
        self._is_asleep = is_asleep
        # When the next run is due, by the engine's clock.
        self._due_at = math.inf
        self._runs = runs
        self._schedules: dict[str, Schedule] = {}
        # Their names, of those without a row: added here, or removed by someone. The next look registers them.
        self._unregistered: set[str] = set()
        # Set once: then no run is claimed any more, but the leases of those under way are still kept.
        self._is_stopping = False
        # Clear while a claim is under way, whose runs are ours as soon as it commits.
        self._has_claimed = asyncio.Event()
        self._has_claimed.set()
        self._wake = asyncio.Event()
        # When to do these again, by the engine's clock. Leases are extended three times within their length: one try
        # may fail.
        self._extend_at = self._touch_at = 0.0

    @property
    def has_schedules(self) -> bool:
        """Whether there is anything to look after."""
        return bool(self._schedules)

    def add(self, schedules: Iterable[Schedule]) -> None:
        """Look after these, too, once they are registered."""
        for schedule in schedules:
            if schedule.name not in self._schedules:
                self._schedules[schedule.name] = schedule
                self._unregistered.add(schedule.name)

    def check_leases(self) -> None:
        """Extend leases at the next look: while our session was away, runs may have been taken over."""
        self._extend_at = 0.0

    def wake(self) -> None:
        """Look now: an operator may have changed something."""
        self._wake.set()

    def stop(self) -> None:
        """Stop claiming runs; current runs continue."""
        self._is_stopping = True

    async def finish_claim(self, limit: float) -> None:
        """Wait for a claim under way, for at most `limit` seconds: cancelled, it may commit runs that nobody knows."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._has_claimed.wait()

    async def run(self) -> None:
        """Look until cancelled; raises an error that no further try can remove."""
        tries = Tries("look after schedules")
        while True:
            # Before the look: what wakes us during it is seen by the next one.
            self._wake.clear()
            try:
                delay = await self._look()
                tries.worked()
            except Exception as error:
                delay = tries.pause_after(error)
                self._due_at = -math.inf  # not known: look again also while the bus sleeps
                # Only here: while looks succeed, they extend the leases, or learn from the answer that a run is lost.
                self._runs.give_up_expired()
            await wait_for_first(self._wake, limit=delay)
            while self._may_rest() and (left := self._due_at - now()) > 0:
                await wait_for_first(self._wake, limit=min(left, LONGEST_WAIT))

    def _may_rest(self) -> bool:
        """Whether nothing is to be asked before the next run is due: the bus sleeps, and no lease is ours to keep."""
        return self._is_asleep() and not self._wake.is_set() and not self._runs.under_way

    async def _look(self) -> float:
        """Do what is due; returns the seconds until the next look."""
        at = now()
        if self._runs.under_way and at >= self._extend_at:
            await self._extend_leases()
            self._extend_at = at + self._config.lease / 3
        longest = min(self._config.poll_interval, self._config.lease / 3)
        if self._is_stopping or not (worker_id := self._worker_id()):
            return longest
        await self.register()
        if at >= self._touch_at:
            await statements.touch_schedules(self._store, schedule_names=list(self._schedules))
            self._touch_at = at + TOUCH_INTERVAL
        self._has_claimed.clear()
        try:
            delay = await self._claim(worker_id)
        finally:
            self._has_claimed.set()
        self._due_at = now() + delay
        return min(longest, delay)

    # ---------------------------------------------------------------------------------------------------- registering

    async def register(self) -> None:
        """Register what was added since the last time."""
        for name in tuple(self._unregistered):
            schedule = self._schedules[name]
            registered = await statements.register_schedule(
                self._store,
                schedule_name=name,
                rule=str(schedule.rule),
                missed=schedule.missed,
                service=self._config.service_name,
                run_immediately=schedule.run_immediately,
            )
            self._unregistered.discard(name)
            if registered.is_new:
                logger.info("schedule %s is new: %s", name, schedule.rule)
            elif registered.old_rule != str(schedule.rule):
                logger.info("schedule %s is now %s, and was %s", name, schedule.rule, registered.old_rule)

    async def warn_of_namesake(self) -> None:
        """Say that another service of our name runs: its schedules have the same names as ours."""
        service, home = self._config.service_name, self._config.home
        if found := await statements.find_namesake(self._store, service=service, home=home):
            logger.warning(
                "%s is of service %r too, whose folder is %s, and that of this process is %s, so they share the runs "
                "of schedules of the same name. If they are two services, give each its own service_name",
                found.worker, service, found.home, home,
            )  # fmt: skip

    # ------------------------------------------------------------------------------------------------------- claiming

    async def _claim(self, worker_id: int) -> float:
        """Claim the runs that are due; returns the seconds until the next one is."""
        # Not one whose run is under way here, even if its lease has ended: two runs of a schedule must not overlap.
        names = [name for name in self._schedules if name not in self._runs]
        if self._is_stopping or not names:  # it may be since the look began, which registers first
            return math.inf
        # From before the statement: the lease in the database then ends no earlier than we believe.
        kept_until = now() + self._config.lease
        found = await statements.claim_schedules(
            self._store,
            worker_id=worker_id,
            worker=self._config.process_name,
            names=names,
            tokens=[uuid4() for _ in names],
            running=[run.token for run in self._runs.under_way],
            lease=self._config.lease,
        )
        # One that someone removed while it is declared here.
        self._unregistered |= set(names) - {one.name for one in found}
        delays = [math.inf] + [0.0] * len(self._unregistered)
        # All of these before the next `await`: a run that is claimed and not under way here counts as forgotten, and
        # the next claim begins it again, as an attempt more.
        for one in found:
            if one.claim and one.next_run_at and now() < kept_until:
                self._begin(one, one.claim, due_at=one.next_run_at, kept_until=kept_until)
        for one in found:
            if one.next_run_at is None:
                delays.append(await self._set_next_run(one))
            elif one.is_active and not one.was_claimed and one.name not in self._runs:
                # Due and not claimed: someone is claiming it at this moment, or holds its row for longer.
                wait = (one.next_run_at - one.now).total_seconds()
                delays.append(wait if wait > 0 else LOCKED_PAUSE)
        return min(delays)

    def _begin(self, found: FoundSchedule, claim: ScheduleClaim, *, due_at: datetime, kept_until: float) -> None:
        turn = take_turn(self._rule(found), missed=found.missed, due_at=due_at, now=found.now, again=claim.attempt > 1)
        self._runs.begin(
            Run(
                schedule=self._schedules[found.name],
                token=claim.token,
                rule=found.rule,
                turn=turn,
                attempt=claim.attempt,
                kept_until=kept_until,
            )
        )

    async def _set_next_run(self, found: FoundSchedule) -> float:
        next_run_at = self._rule(found).after(found.now)
        # No effect where the rule was replaced meanwhile: then the instant would be that of the old one.
        await statements.set_next_run(self._store, schedule_name=found.name, rule=found.rule, next_run_at=next_run_at)
        return (next_run_at - found.now).total_seconds()

    def _rule(self, found: FoundSchedule) -> Rule:
        """The rule in the table, which may be that of a newer version of the code; it wins over ours."""
        declared = self._schedules[found.name].rule
        if found.rule == str(declared):
            return declared
        try:
            return parse_rule(found.rule)
        except InvalidSchedule as error:
            logger.warning("schedule %s: %s; here it is %s", found.name, error, declared)
            return declared

    async def _extend_leases(self) -> None:
        # From before the statement, as in `_claim`.
        kept_until = now() + self._config.lease
        runs = self._runs.under_way
        kept = await statements.extend_schedule_leases(
            self._store,
            schedule_names=[run.schedule.name for run in runs],
            running=[run.token for run in runs],
            lease=self._config.lease,
        )
        for run in runs:
            if run.token in kept:
                run.kept_until = kept_until
            else:
                # Someone else's by now, or finished a moment ago: then `break_off` finds no call, and does nothing.
                run.break_off("lost")
