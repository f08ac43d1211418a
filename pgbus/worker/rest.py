"""A worker's rest: where the bus has slept for `idle_close` seconds, it closes its sessions, and so hears of nothing.

    asleep --idle_close--> look once more -> close all --due, or published here--> begin as after a start

A notification finds nobody then: `Rest.is_on` tells a publisher in this process that it has to wake the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from pgbus.aio.tasks import wait_for_first
from pgbus.database.faults import DATABASE_ERRORS
from pgbus.database.statements import sequencer
from pgbus.leader.slumber import Slumber
from pgbus.worker.membership import Membership
from pgbus.worker.parts import Parts

logger = logging.getLogger("pgbus")


class Rest:
    """Decides when one worker closes its sessions, and when it opens them again; `idle_close` None: never."""

    def __init__(self, slumber: Slumber, *, membership: Membership, idle_close: float | None) -> None:
        self._slumber = slumber
        self._membership = membership
        self._idle_close = idle_close
        self.is_on = False
        """Whether a notification may find nobody, so that a publisher in this process has to call `wake`."""

    async def begin(self, parts: Parts) -> None:
        """Return when the worker is to close its sessions."""
        if self._idle_close is None:
            await asyncio.Event().wait()  # never
        if reason := parts.why_always_open:
            logger.warning("idle_close has no effect on this worker: %s", reason)
        while not self.is_on:
            await self._slumber.asleep.wait()
            await wait_for_first(self._slumber.awake, limit=self._idle_close)
            if self._is_idle(parts):
                # Before the question: who publishes here after it is answered finds this set, and wakes us. Who did
                # before has committed, and its notification precedes the answer; or its transaction holds a lock.
                self.is_on = True
                self.is_on = await self._may_close() and self._is_idle(parts)

    async def end(self, stopping: asyncio.Event) -> None:
        """Return when the sessions are to be opened again, or the worker stops."""
        logger.info("the bus sleeps: the sessions are closed until something is due, or published in this process")
        await wait_for_first(self._slumber.awake, stopping)
        self.is_on = False

    def wake(self) -> None:
        """End the rest, in the worker's event loop."""
        self._slumber.stir()

    def _is_idle(self, parts: Parts) -> bool:
        # A procedure may also have been declared since the worker began.
        return self._slumber.is_asleep and not parts.is_busy and not parts.why_always_open

    async def _may_close(self) -> bool:
        with contextlib.suppress(*DATABASE_ERRORS):
            if session := self._membership.session:
                return await sequencer.may_close(session.store)
        return False
