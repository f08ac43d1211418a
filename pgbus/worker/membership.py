"""Who a worker is to the others: its row, and the lock that says that it lives."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from pgbus.aio.clock import now
from pgbus.config import Config
from pgbus.database.faults import DATABASE_ERRORS
from pgbus.database.session import Session
from pgbus.database.statements import listeners as statements
from pgbus.database.statements import notifications, schemas
from pgbus.database.store import Store
from pgbus.schema import SEEN_INTERVAL
from pgbus.telemetry import Telemetry, WorkersCounted

# Seconds in which a worker that ends tells the others.
LEAVE_TIMEOUT = 2.0


class Membership:
    """One worker among those of its bus.

    Its lock is its session's, so PostgreSQL frees it when the session ends, and the leader, which looks for workers
    without a lock, takes back what they have claimed. That is why whatever claims asks `claimant` first.
    """

    def __init__(self, config: Config, *, telemetry: Telemetry) -> None:
        self._config = config
        self._telemetry = telemetry
        # Set by `enter` and never cleared: the property `session` asks the session itself whether it is lost.
        self._session: Session | None = None
        # When it was lost last, by the engine's clock. A handler that failed across that may have failed by it.
        self._lost_at = -math.inf
        self.returned_at = -math.inf
        """When a session took the place of one that was lost, by the engine's clock; minus infinity: none was."""
        self.worker_id = 0
        """The id of our row, 0 before there is one; it stays ours while the session is away."""
        self.has_others = True
        """Whether other workers live, as far as we know."""
        # Other workers that said that they are here. One that does so while we count is not in the count.
        self._arrivals = 0

    @property
    def session(self) -> Session | None:
        """Our session while it is open and has our lock."""
        return self._session if self._session and not self._session.lost.is_set() else None

    def claimant(self) -> int:
        """The id to claim under; 0 while our session is away, and with it the lock that says that we live.

        The leader would take back whatever we claimed, and count our death for it.
        """
        return self.worker_id if self.session else 0

    def was_cut_off(self, since: float) -> bool:
        """Whether our session is lost, or was at that time (of the engine's clock) or later."""
        return not self.claimant() or self._lost_at >= since

    async def take_lock(self, session: Session, *, names: Sequence[str]) -> bool:
        """Take our lock on a new session: under the id that we had, if we may, so that our claims stay ours.

        False when it is another id; then they are not. `names` are those of our listeners.
        """
        # The lock of the old session may still be held: the server has not noticed yet that the session is gone. Then
        # we are a new worker, and the old one's claims are freed as those of a dead one.
        if self.worker_id and await self._lock(session, self.worker_id):
            return True
        self.worker_id = 0
        worker_id = await self._insert_row(session, names)
        while not await self._lock(session, worker_id):
            # Someone, say another application, holds a lock of the same numbers: nobody could tell when we are dead.
            await statements.remove_worker(session.store, worker_id=worker_id)
            worker_id = await self._insert_row(session, names)
        self.worker_id = worker_id
        return False

    def enter(self, session: Session) -> None:
        """Claim again: this session has our lock, and what we hold is known to be ours."""
        self._session = session
        if self._lost_at > self.returned_at:
            self.returned_at = now()

    def note_loss(self) -> None:
        """Note that the worker's session has ended."""
        self._lost_at = now()

    def note_arrival(self) -> None:
        """Note that another worker is here."""
        self._arrivals += 1
        self.has_others = True

    async def touch(
        self, store: Store, *, listeners: Mapping[int, str], failures: Mapping[str, str], running: str
    ) -> None:
        """Say that we are here, with our listeners (names by ids), what has failed, and what runs now (as JSON)."""
        arrivals = self._arrivals
        others = await statements.touch_worker(
            store,
            worker_id=self.worker_id,
            listener_ids=listeners,
            listeners=listeners.values(),
            failures=failures,
            running=running,
        )
        self.has_others = others > 0 or self._arrivals > arrivals
        self._telemetry.emit(WorkersCounted(others))
        await schemas.touch_schemas(store, worker_id=self.worker_id, age=SEEN_INTERVAL)

    async def leave(self, store: Store, *, wakes_others: bool) -> None:
        """Forget ourselves, and let the next leader know that there is none, unless all sleep."""
        if not self.worker_id:
            return
        # In vain, nothing is lost by it: without our lock we are dead to the others, who find out a moment later.
        with contextlib.suppress(*DATABASE_ERRORS):
            async with asyncio.timeout(LEAVE_TIMEOUT):
                await schemas.touch_schemas(store, worker_id=self.worker_id, age=0.0)
                await statements.remove_worker(store, worker_id=self.worker_id)
                if wakes_others:
                    await notifications.notify_workers(store, "leaderless")
        self.worker_id = 0

    async def _insert_row(self, session: Session, names: Sequence[str]) -> int:
        return await statements.register_worker(
            session.store,
            name=self._config.process_name,
            service=self._config.service_name,
            home=self._config.home,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=version("pgbus"),
            listeners=names,
        )

    async def _lock(self, session: Session, worker_id: int) -> bool:
        return await statements.lock_worker(session.store, worker_id=worker_id)
