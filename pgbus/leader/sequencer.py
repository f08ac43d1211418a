"""The sequencer: the leader's loop that moves the outbox into the log, and sleeps only when no event can be missed.

    look -> wake the listeners concerned -> (nothing left) arm -> look once more -> sleep until notified

While it is awake, publishers share the wake slot's lock and need not notify. To sleep it takes that lock for itself;
a publisher that is then refused sends a NOTIFY. A transaction that shares the slot for long is left behind in it:
publishers go on with the next slot, and the old one is looked at now and then until it is free.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol
from uuid import UUID, uuid4

from pgbus.aio.clock import now
from pgbus.database.faults import LockNotAvailable, QueryCancelled
from pgbus.database.statements import maintenance, sequencer
from pgbus.database.statements.deliveries import Claim
from pgbus.database.statements.sequencer import Sequencing
from pgbus.database.store import Store
from pgbus.telemetry import LeaderSlept, PeriodEnded, Sequenced, Telemetry

logger = logging.getLogger("pgbus")

# Rows per statement, and bytes of them as they are stored; events per run.
BATCH = 2_000
BATCH_BYTES = 4_000_000
RUN = 500
# Seconds between tries to get at what someone else holds locked.
LOCKED_PAUSE = 0.2
# Seconds between looks while a publisher is about to commit without a NOTIFY, and how often before its slot is left.
CONTENDED_PAUSE = 0.002
CONTENDED_LOOKS = 20
# Seconds between looks under load.
LINGER = 0.002
# Seconds between looks at slots that long transactions keep: the first, and the longest.
HELD_PAUSE = 0.02
HELD_PAUSE_LIMIT = 1.0
# Seconds between scans of the scheduled events from their very beginning, while there is no time to sleep.
BOTTOM_INTERVAL = 1.0
# A server crash may take the end of the log with it. Positions that readers may have seen are not used again.
POSITION_GAP = 100_000
# Position 0 stays free: it says "the log is empty", and a cursor there "from the beginning".
FIRST_POSITION = 1
PARTITION_SIZE = 1_000_000_000


class Floor:
    """An outbox id below which no row is left, and none can still become visible.

    Every transaction takes its xid before its outbox ids. So the ids that a look saw handed out belong to transactions
    with lower xids than one that a later look takes for itself (`xid`). Once a snapshot's `xmin` has reached that, all
    of them have ended, and what that look did not leave behind is gone. It lives in memory only: a restore cannot make
    it wrong.
    """

    def __init__(self) -> None:
        self.value = 0
        self._last_id = 0
        self._pending: tuple[int, int] | None = None

    @property
    def wants_xid(self) -> bool:
        """Whether the next look should take an xid: an idle bus needs none."""
        return self._pending is None and self._last_id >= self.value

    def observe(self, look: Sequencing) -> None:
        """Take in what a look saw."""
        if self._pending is not None:
            last_id, xid = self._pending
            if look.xmin >= xid:
                reached = last_id if look.stopped_at is None else min(last_id, look.stopped_at)
                self.value = max(self.value, reached + 1)
                self._pending = None
        elif look.xid is not None:
            # The ids are the last look's: this one's may have been handed out after its xid was.
            self._pending = (self._last_id, look.xid)
        self._last_id = look.last_id


class Batch:
    """How many rows a look takes: fewer after one that was too big or took too long, then more again, step by step."""

    def __init__(self) -> None:
        self.rows = BATCH

    def shrink(self) -> None:
        """It was too much."""
        self.rows = max(1, self.rows // 4)

    def grow(self) -> None:
        """It was not."""
        self.rows = min(BATCH, self.rows * 2)


class Neighbours(Protocol):
    """The listeners of the leader's own process: it wakes them itself, and hands them an event that comes alone."""

    def wake(self, listener_ids: Iterable[int]) -> None:
        """They have something to claim."""

    def offer(self, token: UUID) -> tuple[int, Sequence[int]]:
        """The worker's id, and the listeners that are idle: a claim under this token may be made for each of them."""

    def hand_over(self, claims: Mapping[int, Claim], *, sent_at: float) -> None:
        """What came of the offer, by listener id; called after each offer. `sent_at`: by the engine's clock."""


class Sequencer:
    """Sequences on the session that leads."""

    def __init__(
        self,
        store: Store,
        *,
        telemetry: Telemetry,
        poll_interval: float,
        lease: float,
        neighbours: Neighbours,
        has_others: Callable[[], bool],
    ) -> None:
        self._store = store
        self._telemetry = telemetry
        self._poll_interval = poll_interval
        self._lease = lease
        self._neighbours = neighbours
        self._has_others = has_others
        self._woken = asyncio.Event()
        self._floor = Floor()
        self._batch = Batch()
        self._locked: list[int] = []
        self._due_floor = -math.inf
        self._bottom_at = 0.0
        self._base = 0
        self._slot: int | None = None
        self._contended = 0
        self._held: set[int] = set()
        self._held_pause = HELD_PAUSE
        self._backfill_at = 0.0
        self._roll_over = False

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
    def floor(self) -> int:
        """The outbox id at which looks begin: below it there is nothing left, and never will be."""
        return self._floor.value

    @property
    def partition(self) -> int:
        """The partition that the next event goes to."""
        return self._base // PARTITION_SIZE

    async def run(self) -> None:
        """Sequence until cancelled, or until the session breaks."""
        await self._take_over()
        while True:
            try:
                await self._step()
            except QueryCancelled as error:
                self._batch.shrink()
                logger.warning("a look was cut off, the next one takes %d events at most: %s", self._batch.rows, error)
            except LockNotAvailable:
                await self._find_locked()
                if not self._locked:
                    await asyncio.sleep(LOCKED_PAUSE)

    async def _step(self) -> None:
        look = await self._look()
        if now() >= self._backfill_at:
            await self._backfill()
        elif look.has_more:
            return
        elif self._slot is not None and (look.moved > 1 or self._woken.is_set()):
            await self._disarm()
        elif look.moved > 1:
            # More are on their way: a look costs the same for one as for twenty. A lone event never waits for others.
            await asyncio.sleep(LINGER)
        elif self._slot is None:
            await self._arm()
        else:
            # Armed before this look: whatever it could not see yet will notify us.
            await self._sleep(look)

    async def _take_over(self) -> None:
        end = await sequencer.find_log_end(self._store)
        self._base = end.next_position + POSITION_GAP if end.next_position else FIRST_POSITION
        if self.partition > end.last_partition:
            await maintenance.open_partition(self._store, number=self.partition)
        await self._leave_slot()

    async def _look(self) -> Sequencing:
        if self._roll_over:
            await maintenance.open_partition(self._store, number=self.partition + 1)
            self._base = (self.partition + 1) * PARTITION_SIZE
            self._roll_over = False
        if self._locked:
            await self._find_locked()
        if (at := now()) >= self._bottom_at:
            self._due_floor, self._bottom_at = -math.inf, at + BOTTOM_INTERVAL
        look = await self._sequence()
        self._base += look.moved
        self._floor.observe(look)
        if not look.has_more:
            self._due_floor = look.looked_at
        if look.too_big:
            self._batch.shrink()
        else:
            self._batch.grow()
        if look.moved:
            self._telemetry.emit(Sequenced(look.moved))
            self._neighbours.wake(look.listener_ids)
        return look

    async def _sequence(self) -> Sequencing:
        """One look. An event that comes alone is claimed for our idle listeners at once: that saves a round trip."""
        token, sent_at = uuid4(), now()
        worker_id, idle = self._neighbours.offer(token)
        handed: Mapping[int, Claim] = {}
        try:
            look = await sequencer.sequence_outbox(
                self._store,
                floor=self._floor.value,
                wants_xid=self._floor.wants_xid,
                due_floor=self._due_floor,
                base=self._base,
                batch=self._batch.rows,
                batch_bytes=BATCH_BYTES,
                avoid=self._locked,
                run=RUN,
                tell_others=self._has_others(),
                idle_listener_ids=idle,
                token=token,
                worker_id=worker_id,
                lease=self._lease,
            )
            handed = look.handed
        finally:
            self._neighbours.hand_over(handed, sent_at=sent_at)
        return look

    async def _backfill(self) -> None:
        done = await sequencer.backfill_listener(self._store, batch=self._batch.rows, run=RUN)
        if done.listener_id is not None:
            self._neighbours.wake([done.listener_id])
        else:
            self._backfill_at = now() + LOCKED_PAUSE if done.were_behind else math.inf

    async def _find_locked(self) -> None:
        """Leave out the rows that someone holds locked, as long as they do: nobody waits for them but themselves."""
        try:
            self._locked = await sequencer.find_locked_events(self._store, floor=self._floor.value, batch=BATCH)
        except LockNotAvailable:
            self._locked = []  # it is the table that someone holds

    # ------------------------------------------------------------------------------------------------------- sleeping

    async def _arm(self) -> None:
        """Take the wake slot, after which the caller must look once more before it may sleep."""
        wake_slot = await sequencer.try_sleep(self._store)
        if wake_slot.armed:
            self._slot = wake_slot.slot
            self._contended = 0
            self._woken.clear()
            self._bottom_at = 0.0
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

    async def _sleep(self, look: Sequencing) -> None:
        self._telemetry.emit(LeaderSlept())
        pause = min(
            self._poll_interval, math.inf if look.next_due is None else look.next_due, self._backfill_at - now()
        )
        if self._locked:
            pause = min(pause, LOCKED_PAUSE)
        if self._held:
            pause = min(pause, self._held_pause)
        woken = await _wait(self._woken, pause)
        self._woken.clear()
        # No floor for the look before and after a sleep: an event may have been due before it was committed.
        self._bottom_at = 0.0
        if not woken and self._held:
            await self._review_held_slots()

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
    """Whether the event was set within so many seconds."""
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    except TimeoutError:
        return False
    return True
