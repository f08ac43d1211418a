"""The sequencer: the leader's loop that moves the outbox into the log, and sleeps only when no event can be missed.

    look -> wake the listeners concerned -> (nothing left) arm -> look once more -> sleep until notified
         -> (nothing was owed for a while) lie down -> look once more -> give up the lead until notified

While it is awake, publishers share the wake slot's lock and need not notify. To sleep it takes that lock for itself;
a publisher that is then refused sends a NOTIFY. A transaction that shares the slot for long is left behind in it:
publishers go on with the next slot, and the old one is looked at now and then until it is free.

When the whole bus has been quiet for a while, it sleeps: the current slot is one whose number nobody can read, so every
publisher notifies, also when no worker lives; and nobody leads, so a leader that is frozen or gone by then is in
nobody's way. The one that fell asleep goes on where it was, unless the slot says that another one has led.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from pgbus.aio.clock import now
from pgbus.database.faults import LockNotAvailable, QueryCancelled
from pgbus.database.statements import maintenance, sequencer
from pgbus.database.statements.sequencer import Owed
from pgbus.leader import slumber as slumbers
from pgbus.leader.frontier import Frontier
from pgbus.leader.mover import LOCKED_PAUSE, RUN, LeaderSession, Look, Mover
from pgbus.leader.neighbours import Neighbours
from pgbus.leader.slumber import Slumber
from pgbus.telemetry import LeaderSlept, PeriodEnded, Sequenced, Telemetry

logger = logging.getLogger("pgbus")

# Seconds between looks while a publisher is about to commit without a NOTIFY, and how often before its slot is left.
CONTENDED_PAUSE = 0.002
CONTENDED_LOOKS = 20
# Seconds between looks under load: at least; for each event per second, up to a limit; and for each one of a high rate,
# up to another limit.
LINGER = 0.002
LINGER_PER_RATE, LINGER_LIMIT = 0.000_003_5, 0.003_5
LINGER_PER_HIGH_RATE, LINGER_HIGH_LIMIT = 0.000_002, 0.010
# Seconds of the past that the rate of events is averaged over: several bursts of publishers that keep step.
MEMORY = 0.020
# Seconds between looks at slots that long transactions keep: the first, and the longest.
HELD_PAUSE = 0.02
HELD_PAUSE_LIMIT = 1.0
PARTITION_SIZE = 1_000_000_000
# Seconds until the leader asks again whether the bus may sleep, at least.
DOZE_PAUSE = 0.5
# Seconds within which our own worker hears that we doze. One that is deaf, or far behind, would not hear a publisher.
ECHO_LIMIT = 1.0


@dataclass(slots=True)
class Arrivals:
    """How fast events have come of late."""

    rate: float = 0.0
    """Events per second, of about the last `MEMORY` seconds."""

    def saw(self, events: int, *, seconds: float) -> None:
        """Note how many have come within this time, which is more than 0."""
        # An exponential moving average over steps of unequal length.
        self.rate += (events / seconds - self.rate) * -math.expm1(-seconds / MEMORY)

    @property
    def linger(self) -> float:
        """Seconds to wait for more of them: a look costs the same for one as for twenty."""
        return max(
            LINGER,
            min(LINGER_LIMIT, self.rate * LINGER_PER_RATE),
            min(LINGER_HIGH_LIMIT, self.rate * LINGER_PER_HIGH_RATE),
        )

    @property
    def are_steady(self) -> bool:
        """Whether the next event is likely to come while we linger, also when the last look found none."""
        return self.rate * LINGER >= 1


class Sequencer:
    """Sequences on the session that leads."""

    def __init__(
        self,
        session: LeaderSession,
        *,
        telemetry: Telemetry,
        poll_interval: float,
        lease: float,
        neighbours: Neighbours,
        has_others: Callable[[], bool],
        slumber: Slumber,
        turn: asyncio.Lock,
        silence: str,
    ) -> None:
        self._store = session.store
        self._mover = Mover(session, neighbours=neighbours, lease=lease)
        self._telemetry = telemetry
        self._poll_interval = poll_interval
        self._neighbours = neighbours
        self._has_others = has_others
        self._woken = asyncio.Event()
        # Whether the look that comes is the first after a sleep: what wakes us is mostly one event.
        self._was_woken = False
        # When the last look began: what the next one finds has come since then.
        self._looked_at = -math.inf
        self._arrivals = Arrivals()
        # The wake slot that we hold exclusively, so that publishers notify us; None: they share it, and do not.
        self._slot: int | None = None
        # Tries in a row to get the slot that a publisher kept from us.
        self._contended = 0
        # Slots that we left to transactions which still share them: what these commit notifies nobody, so we look by
        # ourselves.
        self._held: set[int] = set()
        self._held_pause = HELD_PAUSE
        # When to look for listeners with a cursor; infinity: at the last look there was none.
        self._backfill_at = 0.0
        # Asked for by maintenance and done by the next look, so that the partition changes between two writes only.
        self._roll_over = False
        self._slumber = slumber
        self._turn = turn
        self._silence = silence
        # When to ask again what is owed, after something was.
        self._doze_at = 0.0
        self._is_over = False
        self.awake = asyncio.Event()
        """Set while this session leads, and cleared while the bus sleeps."""
        self.awake.set()

    @property
    def is_asleep(self) -> bool:
        """Whether the bus sleeps, and this session does not lead."""
        return not self.awake.is_set()

    def wake(self) -> None:
        """Look now: someone published, or a listener was registered or moved."""
        self._woken.set()

    def catch_up(self) -> None:
        """Look now, also for listeners that are behind."""
        self._backfill_at = 0.0
        self.wake()

    def begin_period(self) -> None:
        """Let the next event open the next partition."""
        if not self._roll_over:
            self._roll_over = True
            self._telemetry.emit(PeriodEnded(self.partition))

    @property
    def frontier(self) -> Frontier:
        """How far the outbox is read."""
        return self._mover.frontier

    @property
    def partition(self) -> int:
        """The partition that the next event goes to."""
        return self._mover.base // PARTITION_SIZE

    async def run(self) -> None:
        """Sequence until cancelled, until the session breaks, or until another one has led while the bus slept."""
        await self._take_over()
        while not self._is_over:
            try:
                await self._step()
            except QueryCancelled as error:
                self._mover.shrink()
                logger.warning("a look was cut off, the next one takes %d events at most: %s", self._mover.rows, error)
            except LockNotAvailable:
                await self._mover.find_locked()
                if not self._mover.is_stepping_over:
                    await asyncio.sleep(LOCKED_PAUSE)

    async def _step(self) -> None:
        since = self._looked_at
        look = await self._look()
        self._arrivals.saw(look.moved, seconds=self._looked_at - since)
        if now() >= self._backfill_at:
            await self._backfill()
        elif look.has_more:
            return
        elif self._slot is not None and (look.moved > 1 or self._woken.is_set()):
            await self._disarm()
        elif look.moved > 1 or (self._slot is None and self._arrivals.are_steady):
            # More are on their way. A lone event never waits for others.
            await asyncio.sleep(self._arrivals.linger)
        elif self._slot is None:
            await self._arm()
        else:
            # Armed before this look: whatever it could not see yet will notify us.
            await self._sleep()

    async def _take_over(self) -> None:
        last_partition = await self._mover.start()
        if self.partition > last_partition:
            await maintenance.open_partition(self._store, number=self.partition)
        await self._leave_slot()

    async def _look(self) -> Look:
        if self._roll_over:
            # The partition before the position that needs it: a leader that dies in between leaves an empty partition,
            # which the next one finds open.
            await maintenance.open_partition(self._store, number=self.partition + 1)
            self._mover.base = (self.partition + 1) * PARTITION_SIZE
            self._roll_over = False
        self._mover.tells_others = self._has_others()
        self._looked_at = now()
        expects_one, self._was_woken = self._was_woken, False
        look = await self._mover.look(expects_one=expects_one)
        if look.moved:
            self._slumber.stir()
            self._telemetry.emit(Sequenced(look.moved))
        return look

    async def _backfill(self) -> None:
        done = await sequencer.backfill_listener(self._store, batch=self._mover.rows, run=RUN)
        if done.listener_id is not None:
            self._neighbours.wake({done.listener_id: ()})
        else:
            self._backfill_at = now() + LOCKED_PAUSE if done.were_behind else math.inf

    # ------------------------------------------------------------------------------------------------------- sleeping

    async def _arm(self) -> None:
        """Take the wake slot, after which the caller must look once more before it may sleep."""
        wake_slot = await sequencer.try_sleep(self._store)
        if wake_slot.armed:
            self._slot = wake_slot.slot
            self._contended = 0
            # What woke us before we had the slot, the look that follows will read.
            self._woken.clear()
            return
        self._contended += 1
        if self._contended > CONTENDED_LOOKS:
            await self._leave_slot()
        else:
            await asyncio.sleep(CONTENDED_PAUSE)

    async def _leave_slot(self) -> None:
        """Move publishers on to the next slot, and remember which old ones are still shared."""
        self._contended = 0
        await sequencer.advance_wake_slot(self._store)
        self._held = await sequencer.find_held_slots(self._store)
        self._held_pause = HELD_PAUSE

    async def _sleep(self) -> None:
        self._telemetry.emit(LeaderSlept())
        if self._doze_in() <= 0 and not self._turn.locked():
            async with self._turn:
                if await self._doze():
                    return
        pause = min(
            self._poll_interval,
            self._mover.next_due - now(),
            self._backfill_at - now(),
            max(DOZE_PAUSE, self._doze_in()),
        )
        if self._mover.is_stepping_over:
            pause = min(pause, LOCKED_PAUSE)
        if self._held:
            pause = min(pause, self._held_pause)
        self._was_woken = await _wait(self._woken, pause)
        self._woken.clear()
        if self._was_woken:
            return
        self._mover.review_schedule()
        if self._held:
            await self._review_held_slots()

    def _doze_in(self) -> float:
        """Seconds until the bus may sleep, as far as is known here; infinity: something has to be done first."""
        if self._held or self._mover.is_stepping_over or self._roll_over or self._backfill_at < math.inf:
            return math.inf
        return max(self._doze_at - now(), slumbers.QUIET - self._slumber.quiet_for)

    async def _doze(self) -> bool:
        """Let the bus sleep until something stirs it, unless something is owed; whether it has slept or tried to."""
        self._doze_at = now() + slumbers.QUIET / 2
        # Before the question: what commits after it is answered is heard of, and then we do not sleep.
        self._woken.clear()
        asked_at = now()
        owed = Owed(now=True, seconds=0.0)
        with contextlib.suppress(QueryCancelled):  # it takes too long: there is a lot
            owed = await sequencer.find_owed(self._store)
        if owed.now:
            return False
        wakes_at = now() + min(owed.seconds, slumbers.LONGEST)
        try:
            slot = await sequencer.lie_down(self._store)
            # Who has published before shares a slot still, or has committed by this look, or notifies.
            is_held = bool(await sequencer.find_held_slots(self._store))
            look = await self._look()
        except (LockNotAvailable, QueryCancelled):
            await self._get_up()
            raise
        # Notifications come in the order of the commits: with our own one, our worker has heard all before it.
        hears = await _wait(self._slumber.lying, ECHO_LIMIT)
        is_news = self._woken.is_set() or self._slumber.heard_at >= asked_at
        if is_held or look.moved or look.has_more or is_news or not hears:
            await self._get_up()
            return True
        # A scheduled event whose row someone has locked is due already, and looked for by the mover alone.
        await self._sleep_until(min(wakes_at, self._mover.next_due), slot)
        return True

    async def _get_up(self) -> None:
        """End the attempt to sleep."""
        await self._disarm()
        await self._leave_slot()
        self._slumber.stir()

    async def _sleep_until(self, wakes_at: float, slot: int) -> None:
        """Give up the lead, sleep, and lead again where we were, unless another session does, or did.

        A step that fails midway has perhaps taken effect in part, for no rollback returns a lock of the session: then
        we cannot know whether we lead, and end.
        """
        self._is_over = True
        self.awake.clear()
        with contextlib.suppress(LockNotAvailable, QueryCancelled):
            await sequencer.fall_asleep(self._store, held_slot=self._slot or 0, seconds=max(0.0, wakes_at - now()))
            self._slot = None
            logger.debug("the bus sleeps, for %.0f s at most", wakes_at - now())
            await _wait(self._woken, wakes_at - now())
            # What wakes us from here on, the look after this will read.
            self._woken.clear()
            self._is_over = not await sequencer.rise(self._store, slot=slot, silence=self._silence)
        if self._is_over:
            logger.info("no longer leading: the bus was woken, and another worker leads or is to begin")
            return
        self.awake.set()
        self._slumber.stir()
        # What has woken us comes first, and what else is due after it.
        await self._look()
        self._mover.review_schedule()

    async def _disarm(self) -> None:
        """Under load, let publishers commit without NOTIFY. For a lone event it is quickest to stay armed."""
        self._woken.clear()
        if self._slot is not None:
            await sequencer.wake_up(self._store, slot=self._slot)
            self._slot = None

    async def _review_held_slots(self) -> None:
        held = await sequencer.find_held_slots(self._store)
        gone, self._held = self._held - held, self._held & held
        # The longer a transaction has been open, the less a moment matters: its event waits a few percent of that.
        self._held_pause = HELD_PAUSE if gone else min(HELD_PAUSE_LIMIT, self._held_pause * 1.1)


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event was set within this many seconds."""
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    except TimeoutError:
        return False
    return True
