"""One look of the leader: read what is new in the outbox, work out what is owed to whom, and write it in one statement.

The read takes no lock and writes nothing. What the leader knows between looks, it changes only when a write has
committed, so a look that fails is simply done again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol
from uuid import UUID

from pgbus.aio.clock import now
from pgbus.database.faults import LockNotAvailable
from pgbus.database.statements import moving
from pgbus.database.statements import sequencer as statements
from pgbus.database.statements.moving import Delivery, Logged, Offer
from pgbus.database.statements.sequencer import Reading, Waiting
from pgbus.database.store import Store
from pgbus.leader.frontier import Frontier, Seen, Snapshot
from pgbus.leader.guesses import Guesses
from pgbus.leader.neighbours import Neighbours, handing_over
from pgbus.leader.routes import Routes
from pgbus.leader.runs import lanes_by_listener, make_deliveries, wake_payloads

logger = logging.getLogger("pgbus")

# Rows per look, and bytes of them as they are stored: what one statement writes, for which the leader's others wait.
# And events per run.
BATCH = 2_000
BATCH_BYTES = 4_000_000
RUN = 500
# Events that are handed over together, at most: an idle listener gets them with the write, and claims nothing.
FEW = 100
# Seconds between tries to get at what someone else holds locked.
LOCKED_PAUSE = 0.2
# A read that takes this many seconds may step over rows above the frontier that are not committed: it should pass them.
# Or else the machine is busy; then this is not tried again for some time.
SLOW_READ = 0.005
SLOW_READ_INTERVAL = 0.5
# Seconds: PostgreSQL's instants, as seconds in a float and back, may be off by a microsecond.
INSTANT_ERROR = 0.001
# A server crash may take the end of the log with it. Positions that readers may have seen are not used again.
POSITION_GAP = 100_000
# Position 0 stays free: it says "the log is empty", and a cursor there "from the beginning".
FIRST_POSITION = 1
NO_OFFER = Offer((), UUID(int=0), worker_id=0, lease=0.0)


class LeaderSession(Protocol):
    """The session that holds the leader's lock."""

    store: Store

    def transaction(self) -> AbstractAsyncContextManager[Store]:
        """Run the statements of the block in one transaction."""


@dataclass(frozen=True, slots=True)
class Look:
    """The result of a look: the moved events, and whether there are more to move at once."""

    moved: int = 0
    has_more: bool = False


class _RoutesChangedError(Exception):
    """The write was refused, and nothing done."""


class Mover:
    """Moves rows from the outbox into the log, look by look; `start` it before the first one."""

    def __init__(
        self,
        session: LeaderSession,
        *,
        neighbours: Neighbours,
        lease: float,
        tells_others: bool = False,
        run: int = RUN,
    ) -> None:
        self._session = session
        self._store = session.store
        self._neighbours = neighbours
        self._lease = lease
        self.run = run
        """How many events a run has at most."""
        self.tells_others = tells_others
        """Whether workers of other processes are notified."""
        self.rows = BATCH
        """How many rows the next look takes at most."""
        self.base = FIRST_POSITION
        """The position of the next event."""
        self.frontier = Frontier()
        """How far the outbox is read."""
        # The last id that was handed out when a read was slow. Ids up to it that were not seen become holes: the next
        # read begins above them.
        self._reach = 0
        self._reach_again_at = -math.inf
        self._routes = Routes()
        self._guesses = Guesses()
        # The rows of the write that is on its way; when a lock stops it, `find_locked` looks among these for the locked
        # ones.
        self._attempted: list[int] = []
        # Rows that someone holds locked. They stay pending in the frontier, so each look reads them again, and writes
        # the others.
        self._locked: set[int] = set()
        # When to look for scheduled events; minus infinity: now. Below the floor there are none that wait, so the scan
        # begins there, above the dead rows of those that were moved.
        self._due_at = -math.inf
        self._due_floor = -math.inf

    async def start(self) -> int:
        """Find out where the log and the outbox end; returns the highest partition of the log that exists."""
        # We hold the leader's lock, so nobody adds to the log after this.
        end = await statements.find_log_end(self._store)
        self.base = end.next_position + POSITION_GAP if end.next_position else FIRST_POSITION
        # A logical copy has the rows, but perhaps not the sequence's value: ids would be handed out a second time.
        if await statements.mend_last_id(self._store):
            logger.warning("the sequence of the outbox was behind its rows, and was set forward")
        last_id = await statements.find_last_id(self._store)
        # After the last id was read, so that the owners of all ids up to it lie below.
        self.frontier = Frontier.begin(last_id=last_id, fence=await statements.take_xid(self._store))
        self._routes = Routes(await statements.load_routes(self._store))
        return end.last_partition

    @property
    def next_due(self) -> float:
        """When to look for scheduled events, by the engine's clock; infinity: none is scheduled."""
        return self._due_at

    @property
    def is_stepping_over(self) -> bool:
        """Whether there are rows that someone else holds locked."""
        return bool(self._locked)

    def review_schedule(self) -> None:
        """Ask again what is due next: someone may have changed it in the table."""
        self._due_at = self._due_floor = -math.inf

    def shrink(self) -> None:
        """The last look took too long: take fewer rows, then more again, step by step."""
        self.rows = max(1, self.rows // 4)

    async def look(self, *, expects_one: bool = False) -> Look:
        """Move what is due, and committed by now. `expects_one`: it is likely to be a single event, if any."""
        moved = await self._move_due() if now() >= self._due_at else 0
        if self._locked:
            await self.find_locked()
        # Ends: each turn has read the routes, and only a registration that commits in between makes another one needed.
        while True:
            if expects_one and self._guesses and not self.frontier.holes:
                reading, logged = await self._read_and_log()
                snapshot = Snapshot.parse(reading.snapshot)
            else:
                (reading, snapshot), logged = await self._read(), None
            try:
                look = await self._move(reading.rows, snapshot, logged)
            except _RoutesChangedError:
                # And read again: with the first ordered listener, the rows need the hashes of their keys.
                await self._load_routes()
            else:
                self.rows = min(BATCH, self.rows * 2)
                return Look(moved + look.moved, has_more=look.has_more or now() >= self._due_at)

    async def _load_routes(self) -> None:
        self._routes = Routes(await statements.load_routes(self._store))

    # ------------------------------------------------------------------------------------------------------- reading

    async def _read(self) -> tuple[Reading, Snapshot]:
        began = now()
        reading = await self._read_with(self.frontier.questions())
        snapshot = Snapshot.parse(reading.snapshot)
        if self.frontier.is_disturbed(snapshot):
            # Rows may have appeared in quiet holes: they must be of the same snapshot as all others.
            reading = await self._read_with(self.frontier.questions(quiet_ones=True))
            snapshot = Snapshot.parse(reading.snapshot)
        elif len(reading.rows) < self.rows and now() - began > SLOW_READ and began >= self._reach_again_at:
            # After the read: what commits in between lies up to here, is noted as a hole, and is found by the next
            # look.
            self._reach_again_at = now() + SLOW_READ_INTERVAL
            self._reach = await statements.find_last_id(self._store)
        return reading, snapshot

    async def _read_with(self, holes: Sequence[range]) -> Reading:
        return await statements.read_outbox(
            self._store,
            high=self.frontier.high,
            batch=self.rows,
            hashes=self._routes.has_lanes,
            holes=holes,
            # What was scheduled before this leader's time, and may be a lot, is found by its instants.
            scheduled=not self.frontier.is_starting,
        )

    # -------------------------------------------------------------------------------------------------------- moving

    async def _move(self, rows: Sequence[Waiting], snapshot: Snapshot, logged: Logged | None) -> Look:
        """Write what was read, unless it is logged already, and remember it; raises _RoutesChangedError."""
        is_full = sum(1 for row in rows if row.id > self.frontier.high) >= self.rows
        rows, stop = self._cut(rows)
        waiting = [row for row in rows if row.deliver_at is None]
        events = [row for row in waiting if row.id not in self._locked] if self._locked else waiting
        # What is scheduled stays in the outbox, and what is locked stays pending; the frontier passes both.
        if events and not logged:
            logged = await self._log(events)
        seen = Seen([row.id for row in rows], [row.id for row in waiting if row.id in self._locked], stop)
        await self._advance(snapshot, seen, logged)
        self._note_scheduled(rows)
        return Look(logged.moved if logged else 0, has_more=is_full or stop is not None)

    def _cut(self, rows: Sequence[Waiting]) -> tuple[Sequence[Waiting], int | None]:
        """As many of the first rows as a look may take, and the last id of them if some were left."""
        high, limit = self.frontier.high, self.rows
        in_holes = sum(1 for row in rows if row.id <= high)
        stop = None
        if in_holes >= limit:
            # There may be more in the holes, which come before what is new.
            rows = rows[:in_holes]
            stop = rows[-1].id
        total = 0
        for count, row in enumerate(rows):
            total += 0 if row.deliver_at is not None else row.bytes
            if count and (count >= limit or total > BATCH_BYTES):
                return rows[:count], rows[count - 1].id
        return rows, stop

    async def _advance(self, snapshot: Snapshot, seen: Seen, logged: Logged | None) -> None:
        """Remember what was seen, now that what was written has committed."""
        frontier = self.frontier.after(snapshot, seen, reach=self._reach)
        # Not `self.frontier` before the fence is there: if the statement that takes it fails, this look is done again
        # with the old one, and finds that its rows are gone.
        if frontier.needs_fence:
            # The write's own xid will do: it was taken after the read.
            fence = logged.xid if logged else await statements.take_xid(self._store)
            frontier = replace(frontier, fence=fence)
        if self.frontier.is_starting and not frontier.is_starting:
            self.review_schedule()
        self.frontier = frontier

    def _note_scheduled(self, rows: Sequence[Waiting]) -> None:
        for row in rows:
            if row.deliver_at is not None:
                self._due_floor = min(self._due_floor, row.deliver_at - INSTANT_ERROR)
                self._due_at = -math.inf

    async def _log(self, events: Sequence[Waiting]) -> Logged:
        """Write events into the log, and wake those who hear them; raises _RoutesChangedError."""
        deliveries = self._make_deliveries(events)
        in_lanes = [one.lane is not None for one in deliveries]
        if len(events) == 1 and (self.tells_others or not any(in_lanes)):
            logged = await self._hand_over(events, partial(self._log_alone, events[0], deliveries))
        elif len(events) <= min(FEW, self.run) and not self.tells_others:
            logged = await self._hand_over(events, partial(self._log_together, self._store, events, deliveries))
        else:
            logged = await self._log_together(self._store, events, deliveries, NO_OFFER)
        # What goes into lanes and nowhere else is handed over by `log_events`; a guess could not do that.
        if len(events) == 1 and (self.tells_others or not all(in_lanes) or not in_lanes):
            self._guesses.remember(events[0])
        self._note_logged(events, deliveries, logged)
        return logged

    def _make_deliveries(self, events: Sequence[Waiting]) -> list[Delivery]:
        self._attempted = [event.id for event in events]
        return make_deliveries(events, self._routes, base=self.base, run=self.run)

    def _note_logged(self, events: Sequence[Waiting], deliveries: Iterable[Delivery], logged: Logged) -> None:
        """Now that it has committed."""
        # Positions are used up only here. A write that failed gives its own to the next one: nobody has seen them.
        self._attempted = []
        self.base += len(events)
        handed = {(listener_id, claim.lane) for listener_id, claims in logged.handed.items() for claim in claims}
        self._neighbours.wake(lanes_by_listener(one for one in deliveries if (one.listener_id, one.lane) not in handed))

    async def _hand_over(self, events: Sequence[Waiting], log: Callable[[Offer], Awaitable[Logged]]) -> Logged:
        """Log events, claimed for idle listeners of ours that may take them."""
        heard_by = (route for event in events for route in self._routes.find(event.topic, event.ancestors))
        takers = {route.listener_id for route in heard_by if route.is_active}
        return await handing_over(self._neighbours, log, takers=takers, events=len(events), lease=self._lease)

    async def _log_alone(self, event: Waiting, deliveries: Sequence[Delivery], offer: Offer) -> Logged:
        logged = await moving.log_event(
            self._store,
            id_=event.id,
            base=self.base,
            deliveries=deliveries,
            offer=offer,
            wakes=self._wakes(deliveries, offer),
        )
        if logged is None:
            raise _RoutesChangedError
        return logged

    async def _log_together(
        self, store: Store, events: Sequence[Waiting], deliveries: Sequence[Delivery], offer: Offer
    ) -> Logged:
        logged = await moving.log_events(
            store,
            ids=[event.id for event in events],
            base=self.base,
            deliveries=deliveries,
            offer=offer,
            wakes=self._wakes(deliveries, offer),
        )
        if logged is None:
            raise _RoutesChangedError
        return logged

    async def _read_and_log(self) -> tuple[Reading, Logged | None]:
        """Read, and log a single event at once if it is one that was guessed: that saves another round trip."""
        reading = Reading("", [])

        async def log(offer: Offer) -> Logged | None:
            nonlocal reading
            reading, logged = await moving.read_and_log_event(
                self._store,
                high=self.frontier.high,
                batch=self.rows,
                hashes=self._routes.has_lanes,
                guesses=self._guesses.make(self._routes, idle=offer.listener_ids, tells_others=self.tells_others),
                base=self.base,
                offer=offer,
            )
            return logged

        takers = self._guesses.takers(self._routes)
        logged = await handing_over(self._neighbours, log, takers=takers, events=1, lease=self._lease)
        if logged:
            self._guesses.remember(reading.rows[0])
            self._note_logged(reading.rows, self._make_deliveries(reading.rows), logged)
        return reading, logged

    def _wakes(self, deliveries: Sequence[Delivery], offer: Offer) -> list[str]:
        if not self.tells_others:
            return []
        others = (one for one in deliveries if one.listener_id not in offer.listener_ids)
        return wake_payloads(lanes_by_listener(others))

    # ----------------------------------------------------------------------------------------------------- scheduled

    async def _move_due(self) -> int:
        """Move scheduled events that are due, before any others; how many they were."""
        due = await statements.find_next_due(self._store, due_floor=self._due_floor)
        if due is None or due.seconds > 0:
            self._due_floor = math.inf if due is None else due.deliver_at - INSTANT_ERROR
            self._due_at = math.inf if due is None else now() + due.seconds
            return 0
        try:
            # A transaction, as the rows are to stay locked until they are moved: someone who cancels one meanwhile
            # waits, and finds it gone.
            async with self._session.transaction() as store:
                found = await statements.lock_due_events(
                    store, due_floor=self._due_floor, batch=self.rows, hashes=self._routes.has_lanes
                )
                if not found:
                    # Who cancels it holds its row. Others may become due meanwhile.
                    later = await statements.find_next_due(store, due_floor=due.deliver_at - due.seconds)
                    self._due_at = now() + min(LOCKED_PAUSE, max(0.0, later.seconds) if later else math.inf)
                    return 0
                events = self._cut_due(found)
                deliveries = self._make_deliveries(events)
                logged = await self._log_together(store, events, deliveries, NO_OFFER)
        except _RoutesChangedError:
            await self._load_routes()
            return 0
        self._note_logged(events, deliveries, logged)
        return logged.moved

    def _cut_due(self, rows: Sequence[Waiting]) -> Sequence[Waiting]:
        total = 0
        for count, row in enumerate(rows):
            total += row.bytes
            if count and total > BATCH_BYTES:
                return rows[:count]
        return rows

    # -------------------------------------------------------------------------------------------------------- locked

    async def find_locked(self) -> None:
        """Leave out the rows that someone holds locked, as long as they do: nobody waits for them but themselves."""
        try:
            self._locked = await statements.find_locked_events(self._store, [*self._locked, *self._attempted])
        except LockNotAvailable:
            self._locked = set()  # it is the table that someone holds
        self._attempted = []
