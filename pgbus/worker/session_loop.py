"""A worker's session: opened again when it is lost. It hears notifications, and the worker leads when nobody does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Coroutine
from typing import Any

from pgbus.aio.backoff import Backoff
from pgbus.aio.clock import now
from pgbus.aio.tasks import end_tasks, failure_of, run_until, wait_for_first
from pgbus.config import Config
from pgbus.database import channels, migrate
from pgbus.database.connections import session_closed
from pgbus.database.faults import DATABASE_ERRORS, is_fatal, is_passing
from pgbus.database.session import Session
from pgbus.database.statements import listeners, notifications, sequencer
from pgbus.leader.slumber import Slumber
from pgbus.schema import Catalog
from pgbus.telemetry import SessionLost, SessionOpened, Telemetry
from pgbus.worker.membership import Membership
from pgbus.worker.parts import Parts

logger = logging.getLogger("pgbus")

# Seconds between looks whether there is a leader.
LEAD_INTERVAL = 0.5
# Seconds that the worker that led before the bus slept has to lead again, once something has woken it.
HEAD_START = 0.5
# Seconds that a worker whose listeners are still being registered leaves others without a leader.
BEGIN_TIME = 1.0
# Seconds between tries to connect: the first pause, and the longest.
RECONNECT_PAUSE = 0.1
RECONNECT_LIMIT = 2.0
# Of a PostgreSQL integer.
_ID_DIGITS = 10


class SessionLoop:
    """Keeps a session open for one worker, and its parts at work while there is one.

    `ready` is set once the first session has begun all parts.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        config: Config,
        telemetry: Telemetry,
        membership: Membership,
        schemas: Catalog,
        slumber: Slumber,
        ready: asyncio.Event,
    ) -> None:
        self._parts = parts
        self._config = config
        self._telemetry = telemetry
        self._membership = membership
        self._schemas = schemas
        self._slumber = slumber
        self._ready = ready
        self._reconnecting = Backoff(RECONNECT_PAUSE, RECONNECT_LIMIT)
        self._leaderless = asyncio.Event()
        # What a notification had us do, until it is done.
        self._answers: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Keep a session open until cancelled; say once when it is lost, and once when it is back.

        Raises what the first connection fails with, and what no further try can mend.
        """
        opened_before = self._ready.is_set()  # also before a rest
        while True:
            try:
                async with contextlib.AsyncExitStack() as stack:
                    session = await self._open()
                    stack.push_async_callback(session.close)
                    opened_before = True
                    await self._live(session)
            except Exception as error:
                if not opened_before or is_fatal(error, has_worked=self._ready.is_set()):
                    raise
                self._membership.note_loss()
                if not self._reconnecting.tries:
                    logger.warning("lost the connection to the database, reconnecting: %s", error)
                    self._telemetry.emit(SessionLost(str(error)))
            await asyncio.sleep(self._reconnecting.next())

    async def _open(self) -> Session:
        namespace = self._config.namespace
        heard = {
            channels.work(namespace): self._heard_work,
            channels.schemas(namespace): self._heard_schemas,
            channels.calls(namespace): self._heard_calls,
            channels.wake(namespace): self._heard_wake,
        }
        return await Session.open(self._config, channels=heard)

    async def _live(self, session: Session) -> None:
        # The order is the point. Our lock first: a leader takes back the claims of a worker without one. Then what we
        # hold is kept, or lapses. Only then `enter`, from which on events begin and more are claimed.
        await migrate.check_async(session.connection, namespace=self._config.namespace)
        await self._pause_copy(session)  # before anything is claimed
        if not await self._membership.take_lock(session, names=self._parts.listener_names):
            self._parts.leases.lapse()
        await self._parts.leases.extend(session.store)  # while we were away, the leader may have taken some back
        # A leader who believed to be alone notifies from now on. After our lock, by which it counts its company.
        await notifications.notify_workers(session.store, "arrived")
        # Before anything is claimed again: a crash of the server may have brought back rows that were gone.
        self._parts.runners.look_at_everything()
        self._membership.enter(session)
        self._slumber.stir()  # what was said while we were away, nobody has heard
        beginning = asyncio.create_task(self._begin(session), name="pgbus begin")
        leading = asyncio.create_task(self._lead_soon(session, beginning), name="pgbus lead")
        try:
            await asyncio.wait([beginning, leading], return_when=asyncio.FIRST_EXCEPTION)
        finally:
            await end_tasks(beginning, leading)
        if error := failure_of([beginning, leading]):
            raise error

    async def _pause_copy(self, session: Session) -> None:
        if (number := await listeners.pause_copy(session.store)) is not None:
            logger.warning(
                "this database is a copy of another one: all listeners and schedules are paused (operation %s); "
                "`pgbus db adopt` has them continue, `pgbus listeners resume` one of them", number,
            )  # fmt: skip

    async def _begin(self, session: Session) -> None:
        """Begin the parts, and report that the session is open."""
        await self._parts.begin(session.store)
        self._telemetry.emit(SessionOpened(self._membership.worker_id))
        self._parts.runners.look_at_everything()
        if self._reconnecting.tries:
            logger.info("the database is back")
        self._reconnecting.reset()
        self._ready.set()

    # ------------------------------------------------------------------------------------------------------ leading

    async def _lead_soon(self, session: Session, beginning: asyncio.Task[None]) -> None:
        """Lead once the listeners are registered: then they hear what was published before. Or when that takes long."""
        await asyncio.wait([beginning], timeout=BEGIN_TIME)
        await self._lead_when_nobody_does(session)

    async def _lead_when_nobody_does(self, session: Session) -> None:
        while not session.lost.is_set():
            if not self._parts.restarts.is_resting("leader") and await self._is_leaderless(session):
                began = now()
                await self._lead(session)
                if now() - began > LEAD_INTERVAL:
                    continue  # we were silent for a moment, say, and nobody else is here to lead
            self._leaderless.clear()
            await wait_for_first(
                self._leaderless,
                session.lost,
                limit=LEAD_INTERVAL * random.uniform(0.8, 1.2),  # noqa: S311 - jitter
            )
            if self._slumber.is_asleep:
                await wait_for_first(self._slumber.awake, session.lost)
                await asyncio.sleep(HEAD_START * 1.1)  # the clocks differ a little
        raise session_closed()

    async def _is_leaderless(self, session: Session) -> bool:
        """Whether somebody has to lead. While the bus sleeps nobody does, and who led before is the first to go on."""
        lock = await sequencer.find_leader(session.store)
        return lock.free and (not lock.asleep or self._slumber.up_for >= HEAD_START)

    async def _lead(self, session: Session) -> None:
        """Lead until the leader's session breaks, or ours.

        What fails in it ends no worker: if it is a row, it would end one after the other, and their listeners.
        """
        began = now()
        lead = self._parts.leader.lead(self._membership.worker_id)
        leading = await run_until(lead, session.lost, name="pgbus leader")
        if leading.cancelled() or not (error := leading.exception()):
            return
        if is_passing(error):
            logger.info("no longer leading: %s", error)
        else:
            self._parts.restarts.note_failure("leader", error, age=now() - began)

    # ------------------------------------------------------------------------------------------------------ hearing

    def _heard_work(self, payload: str) -> None:
        if payload == "dozing":
            self._slumber.lie_down()
            self._answer(self._object_if_busy())
        elif payload.startswith("asleep "):
            self._answer(self._fall_asleep(payload.removeprefix("asleep ")))
        else:
            self._slumber.stir()
            self._heard_news(payload)

    def _heard_news(self, payload: str) -> None:
        match payload:
            case "leaderless":
                self._leaderless.set()
            case "arrived":
                self._membership.note_arrival()
            case "subscribed":
                self._parts.leader.catch_up()
            case "reload":
                self._parts.look_at_everything()
            case _:
                self._parts.runners.wake(_read_lanes(payload))

    def _answer(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this soon: a callback of the session cannot wait."""
        task = asyncio.create_task(work)
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _object_if_busy(self) -> None:
        """Keep the bus awake for what only we know of: our claim may be under way, or a look for lost work fail."""
        if self._parts.is_busy and (session := self._membership.session):
            with contextlib.suppress(*DATABASE_ERRORS):
                await notifications.notify_workers(session.store, "busy")

    async def _fall_asleep(self, text: str) -> None:
        """Sleep, if the database says so, too: anyone may notify."""
        with contextlib.suppress(ValueError, *DATABASE_ERRORS):
            seconds = float(text)
            if (session := self._membership.session) and await sequencer.is_asleep(session.store):
                self._slumber.fall_asleep(seconds if seconds >= 0 else 0.0)  # 0 also for NaN

    def _heard_wake(self, payload: str) -> None:  # noqa: ARG002 - it carries nothing
        self._slumber.stir()
        self._parts.leader.wake()

    def _heard_calls(self, payload: str) -> None:
        self._slumber.stir()
        self._parts.server.heard(payload)

    def _heard_schemas(self, payload: str) -> None:  # noqa: ARG002 - it tells that something changed, not what
        if session := self._membership.session:
            self._schemas.stored.drop(session.store)


def _read_lanes(payload: str) -> dict[int, list[int]]:
    """The listener ids of a notification, each with its lanes if they are named: `7,8:3.61`.

    Anyone may notify: what is not an id or a lane is passed over.
    """
    parts = (part.partition(":") for part in payload.split(","))
    return {
        int(id_): [int(lane) for lane in lanes.split(".") if _is_id(lane)] for id_, _, lanes in parts if _is_id(id_)
    }


def _is_id(text: str) -> bool:
    # ASCII, as isdigit() alone is also true of what int() refuses; and short, as it refuses thousands of digits.
    return text.isascii() and text.isdigit() and len(text) <= _ID_DIGITS
