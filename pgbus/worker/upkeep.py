"""A worker's upkeep: it keeps leases, says that it is here, begins what is declared, and looks for lost work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from pgbus.aio.tasks import wait_for_first
from pgbus.config import Config
from pgbus.database.statements.notifications import notify_workers
from pgbus.database.store import Store
from pgbus.database.tries import Tries
from pgbus.worker.membership import Membership
from pgbus.worker.parts import Parts
from pgbus.worker.under_way import report, work_of

# Seconds between the times that a worker says that it is here.
TOUCH_INTERVAL = 10.0
# Seconds after a sleep of the bus: what has ended it comes first.
RISE_PAUSE = 0.3


class Upkeep:
    """Looks after the parts of one worker at every poll, and whenever something about them has changed.

    While the bus sleeps there is nothing to look after.
    """

    def __init__(
        self, parts: Parts, *, config: Config, membership: Membership, store: Store, is_resting: Callable[[], bool]
    ) -> None:
        self._parts = parts
        self._is_resting = is_resting
        self._config = config
        self._membership = membership
        self._store = store
        self._extend_at = 0.0
        self._touch_at = 0.0
        # The failed parts that were stored last.
        self._told: Mapping[str, str] = {}
        # Whether something may have been declared, or may begin again, since the parts last began.
        self._is_due = False

    async def run(self, ready: asyncio.Event) -> None:
        """Look after the parts, once they are `ready`, until cancelled; raises what no further try can mend."""
        await ready.wait()
        tries = Tries("look after what is claimed")
        change = self._parts.change
        while True:
            # Before the look at what failed: what fails, or is declared, from here on is seen in the next round.
            self._is_due = self._is_due or change.is_set()
            change.clear()
            try:
                await self._look()
                tries.worked()
                self._parts.slumber.note_look()
                pause = min(self._config.poll_interval, self._config.lease / 3)
            except Exception as error:
                pause = tries.pause_after(error)
            await self._wait(pause)

    async def _wait(self, pause: float) -> None:
        change, woken = self._parts.change, self._parts.woken
        await wait_for_first(change, woken, limit=pause)
        if self._parts.slumber.is_asleep:
            await wait_for_first(change, woken)
        if woken.is_set():
            woken.clear()
            self._touch_at = 0.0
            await asyncio.sleep(RISE_PAUSE)

    async def _look(self) -> None:
        loop, store, parts = asyncio.get_running_loop(), self._store, self._parts
        if parts.slumber.is_asleep and not self._is_resting():  # where the parts end, and no other one begins
            # A part is declared, or begins again, and may claim: somebody has to lead meanwhile.
            await notify_workers(store, "busy")
        # Before `return_forgotten`: the claims of a part that failed are forfeited, which counts against their events.
        # Given back first, they would fail it again, forever and uncounted.
        await parts.end_failed(store)
        if parts.restarts.resting != self._told:
            self._touch_at = 0.0
        # Three times within a lease: an attempt may fail, and the next one still keeps it.
        if loop.time() >= self._extend_at:
            await parts.leases.extend(store)
            self._extend_at = loop.time() + self._config.lease / 3
        if loop.time() >= self._touch_at:
            failures = dict(parts.restarts.resting)
            names = {id_: runner.listener.name for id_, runner in parts.runners.by_id.items()}
            await self._membership.touch(store, listeners=names, failures=failures, running=report(work_of(parts)))
            self._told = failures
            self._touch_at = loop.time() + TOUCH_INTERVAL
        if self._is_due and self._membership.session:  # while it is away: a new session begins everything
            await parts.begin(store)
            self._is_due = False
        await parts.leases.return_forgotten(store)
        await parts.poll(store)
