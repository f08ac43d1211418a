"""The leader sequences events and does maintenance. Any worker may lead; an advisory lock ensures that only one does.

It has a second session, besides its worker's. The server ends that session when the process is silent, frozen or
hanging, so another one leads; its claims stay its own meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any, Protocol

from pgbus.aio.tasks import end_tasks
from pgbus.config import Config
from pgbus.database.connections import session_closed, settings_sql
from pgbus.database.faults import LockNotAvailable, QueryCancelled
from pgbus.database.session import Session
from pgbus.database.statements import sequencer as statements
from pgbus.database.store import Store
from pgbus.leader.frontier import Frontier
from pgbus.leader.maintenance import Maintenance
from pgbus.leader.neighbours import Neighbours
from pgbus.leader.sequencer import Sequencer
from pgbus.leader.slumber import Slumber
from pgbus.telemetry import LeaderChanged, Telemetry

logger = logging.getLogger("pgbus")

# Seconds between statements of a leader that has nothing to do. The server ends its session, and with it its lock and
# all that it could write, when it sends nothing for longer than SILENCE: frozen, hanging, or gone with its host. A
# session in which a statement runs, however long, is not silent.
BEAT = 0.25
SILENCE = "1s"
# The leader steps over what is locked. Where that cannot be told beforehand, it waits for no longer than this; and a
# statement that takes too long is cut off on the server, so that the next one can do less, and the session stays.
LEADER_SETTINGS = {
    "lock_timeout": "100ms",
    "statement_timeout": "10s",
    "idle_session_timeout": SILENCE,
    "idle_in_transaction_session_timeout": SILENCE,
    # While the server sends a result that nobody reads, it is not idle.
    "tcp_user_timeout": SILENCE,
}


class Company(Protocol):
    """The other workers, as far as the leader's own one knows of them."""

    @property
    def has_others(self) -> bool:
        """Whether other workers live, as far as we know."""

    @property
    def returned_at(self) -> float:
        """When a session took the place of one that was lost, by the engine's clock; minus infinity: none was."""


class Leader:
    """One worker's leadership: `lead` whenever nobody does."""

    def __init__(
        self,
        config: Config,
        *,
        telemetry: Telemetry,
        neighbours: Neighbours,
        company: Company,
        slumber: Slumber,
        store: Store,
    ) -> None:
        self._config = config
        self._telemetry = telemetry
        self._neighbours = neighbours
        self._company = company
        self._slumber = slumber
        # The worker's, on its pool.
        self._store = store
        # Both are set while we lead, by `_do_duties` alone.
        self._session: Session | None = None
        self._sequencer: Sequencer | None = None

    @property
    def leads(self) -> bool:
        """Whether this worker is the leader now, or was it when the bus fell asleep, which it still does."""
        return self._sequencer is not None

    @property
    def store(self) -> Store | None:
        """Statements on the session that leads, each after those before it; None when we do not lead."""
        return self._session.store if self._session else None

    @property
    def frontier(self) -> Frontier | None:
        """How far the leader has read the outbox; None when we do not lead."""
        return self._sequencer.frontier if self._sequencer else None

    def wake(self) -> None:
        """Look now: someone has published, or something else has ended the sleep of the bus."""
        if self._sequencer:
            self._sequencer.wake()

    def catch_up(self) -> None:
        """Look now, also for listeners that are behind."""
        if self._sequencer:
            self._sequencer.catch_up()

    async def lead(self, worker_id: int) -> None:
        """Lead, if still nobody does, until the session breaks: PostgreSQL frees the leader's lock with it.

        Raises DatabaseUnreachableError or the driver's error when it does.
        """
        session = await Session.open(self._config, channels={})  # the worker's session hears what wakes us
        try:
            # Both before the lock: once we lead, silence has to end this session, wherever we freeze, or nobody could
            # take over.
            await session.connection.execute(settings_sql(LEADER_SETTINGS))
            await session.prepare(statements.names_to_lead())
            if await statements.try_lead(session.store):
                await self._do_duties(session, worker_id, is_noted=await _note(session, worker_id))
        finally:
            # Here the duties have ended. The lock goes with the session, so nothing of ours is written when another
            # leads.
            await session.close()

    async def _do_duties(self, session: Session, worker_id: int, *, is_noted: bool) -> None:
        # Held over each round of maintenance, and while the bus sleeps.
        turn = asyncio.Lock()
        sequencer = Sequencer(
            session,
            telemetry=self._telemetry,
            poll_interval=self._config.poll_interval,
            lease=self._config.lease,
            neighbours=self._neighbours,
            has_others=lambda: self._company.has_others,
            slumber=self._slumber,
            turn=turn,
            silence=LEADER_SETTINGS["idle_session_timeout"],
        )
        maintenance = Maintenance(
            session.store,
            pool=self._store,
            config=self._config,
            telemetry=self._telemetry,
            worker_id=worker_id,
            returned_at=self._company.returned_at,
            wake_listeners=self._neighbours.wake,
            partition=lambda: sequencer.partition,
            begin_period=sequencer.begin_period,
            turn=turn,
        )
        self._session, self._sequencer = session, sequencer
        logger.info("leading")
        self._telemetry.emit(LeaderChanged(leads=True))
        beat = _beat(session, sequencer, worker_id, is_noted=is_noted)
        try:
            await _until_one_ends(sequencer.run(), maintenance.run(), maintenance.search(), beat, _end_with(session))
        finally:
            self._session = self._sequencer = None
            self._telemetry.emit(LeaderChanged(leads=False))


async def _until_one_ends(*works: Coroutine[Any, Any, None]) -> None:
    """Run the duties of a leader until the first of them ends, which ends the others; raises its error.

    None of them ends by itself while all is well, but the sequencer when another one has led in our sleep. With the
    first one that does, leading ends as a whole: a leader that sequences and does no maintenance, say, would keep the
    lock from one that does both.
    """
    duties = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(duties, return_when=asyncio.FIRST_COMPLETED)
        for duty in done:
            duty.result()
    finally:
        await end_tasks(*duties)


async def _end_with(session: Session) -> None:
    await session.lost.wait()
    raise session_closed()


async def _note(session: Session, worker_id: int) -> bool:
    """Say to people who leads, which the lock alone decides; False when someone holds a row of it, to be said again."""
    try:
        return await statements.note_leader(session.store, worker_id=worker_id)
    except (LockNotAvailable, QueryCancelled):
        return False


async def _beat(session: Session, sequencer: Sequencer, worker_id: int, *, is_noted: bool) -> None:
    """Let the server hear of us also when there is nothing to do, except while the bus sleeps.

    Other statements are as good: where each takes its time on the way, a beat would delay those that do the work.
    """
    while True:
        pause = session.idle_since + BEAT - time.monotonic()
        if pause > 0:
            await asyncio.sleep(min(pause, BEAT))
            continue
        if sequencer.is_asleep:
            await sequencer.awake.wait()
        elif not is_noted:
            is_noted = await _note(session, worker_id)
        else:
            await statements.beat(session.store)
