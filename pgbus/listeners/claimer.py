"""Claiming one listener's events: as many as it can begin soon, when someone said that there may be some."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID, uuid4

from pgbus.aio.clock import now
from pgbus.database.statements import deliveries
from pgbus.database.statements.deliveries import Claim, ClaimTerms
from pgbus.database.tries import Tries
from pgbus.listeners.backlog import Backlog
from pgbus.listeners.claims import ClaimsInFlight
from pgbus.listeners.known_topics import KnownTopics
from pgbus.listeners.lanes import Lanes
from pgbus.listeners.pace import Pace
from pgbus.listeners.quarantine import Quarantine
from pgbus.listeners.running import RunningListener
from pgbus.listeners.settlement import HeldClaim
from pgbus.telemetry import Claimed

logger = logging.getLogger("pgbus")

# Seconds between scans from the bottom, at least: they find what a claim that was rolled back left below the floor.
BOTTOM_INTERVAL = 5.0
# Seconds until the next claim when others have locked what we came for, doubled each time.
LOCKED_PAUSE = 0.01
LOCKED_PAUSE_LIMIT = 1.0
# Claims that the database refuses to settle, from which on a listener claims no more: only memory knows their outcomes.
REFUSED_LIMIT = 100


class Claimer:
    """Claims events into the backlog. It is woken by notifications, by polls, and when there is room again."""

    def __init__(
        self,
        running: RunningListener,
        *,
        backlog: Backlog,
        in_flight: ClaimsInFlight,
        lanes: Lanes,
        known: KnownTopics,
        pace: Pace,
        quarantine: Quarantine,
    ) -> None:
        self._running = running
        self._listener = running.listener
        self._backlog = backlog
        self._in_flight = in_flight
        self._lanes = lanes
        self._known = known
        self._pace = pace
        self._quarantine = quarantine
        # Cleared before each claim and set by each wake-up, so that a wake during the statement is not lost. It stays
        # set while there is no room, so that the next free slot has it claim.
        self._may_have_work = True
        # Set by `stop`, for good: what is handed over then stays unknown, and is returned.
        self._is_stopped = False
        # Below these nothing is left for us to claim: a position for fresh runs, an instant for retries and the like.
        self.floor = 0
        self._due_floor = -math.inf
        self._bottom_at = 0.0
        # Set by each scan from the bottom, and cleared by a claim that was allowed suspects and found none.
        self._look_for_suspects = True
        # Whether it has claimed, or tried to, since it was last asked.
        self._has_claimed = False
        # Whether the last claim took all that it wanted, so that the next one has to cut a run, too.
        self._expects_cuts = False
        self._locked_pause = LOCKED_PAUSE
        # The tokens of claims that we cannot know the outcome of yet: they must not be taken for forgotten ones.
        self._claiming: UUID | None = None
        self._offered: UUID | None = None

    @property
    def tokens_under_way(self) -> set[UUID]:
        """The tokens of claims that may be made at this moment, by us or by the sequencer for us."""
        return {token for token in (self._claiming, self._offered) if token}

    @property
    def is_busy(self) -> bool:
        """Whether it claims, or holds claims, or is to look for some."""
        return bool(self._may_have_work or self._in_flight or self._claiming)

    def was_quiet(self) -> bool:
        """Whether it has not looked for work since this was last asked."""
        was_quiet, self._has_claimed = not self._has_claimed, False
        return was_quiet

    def wake(self, lanes: Iterable[int] = ()) -> None:
        """Claim: there may be work, in these lanes of an ordered listener if they are named."""
        self._lanes.expect(lanes)
        self._in_flight.ask_for_lanes()
        self._claim_soon()

    def wake_for_settled(self, lanes: Iterable[int | None]) -> None:
        """Claim what waits in these lanes, in which we hold nothing any more."""
        if any(self._lanes.may_have(lane) for lane in lanes):
            self._claim_soon()

    def _claim_soon(self) -> None:
        self._may_have_work = True
        self._backlog.has_room.set()

    def wake_for_due(self) -> None:
        """Claim what is due from the first instant on: a retry may be due before what we have seen."""
        self._due_floor = -math.inf
        self.wake()

    def wake_for_suspects(self) -> bool:
        """Claim, as a suspect may be claimed now; whether that is done at once."""
        self.wake()
        return not self._is_stopped and self._wanted() > 0

    def look_at_everything(self) -> None:
        """Claim without the floors: an operator may have put old events back, or a crash of the server."""
        self._bottom_at = 0.0
        self._lanes.lower()
        self.wake()

    def stop(self) -> None:
        """Take nothing that the sequencer hands over any more; the loop is for the caller to end."""
        self._is_stopped = True

    async def run(self) -> None:
        """Claim until cancelled; what no further try can mend is raised."""
        tries = Tries(f"claim events for {self._listener.name}")
        while True:
            wanted = self._wanted() if self._may_have_work else 0
            if not wanted:
                self._backlog.has_room.clear()
                await self._backlog.has_room.wait()
                continue
            try:
                await self._claim(wanted)
                tries.worked()
            except Exception as error:
                self._may_have_work = True
                self._lanes.expect()
                await asyncio.sleep(tries.pause_after(error))

    # -------------------------------------------------------------------------------------------------- handed over

    def offer(self, token: UUID, *, events: int) -> Mapping[int, int] | None:
        """Whether the sequencer may claim its next events, up to this many, for us under this token; None for no.

        A listener without order takes them when it handles nothing. An ordered one names the lanes in which there is
        nothing, each with its floor; not if dead letters block keys in them.
        """
        lanes: Mapping[int, int] | None = None
        if not (self._claiming or self._is_stopped) and events <= min(self._wanted(), self._piece):
            if self._listener.ordered:
                lanes = None if self._listener.blocks else self._lanes.empty(held=self._in_flight.lanes) or None
            elif not self._may_have_work and self._in_flight.are_handled:
                lanes = {}
        self._offered = None if lanes is None else token
        return lanes

    def hand_over(self, claims: Sequence[Claim], *, sent_at: float) -> None:
        """Take the result of the offer. While the runner drains it is ignored, and returned with other forgotten
        claims.
        """
        self._offered = None
        if claims and not self._is_stopped:
            events = sum(claim.size for claim in claims)
            self._running.telemetry.emit(Claimed(self._listener.name, events))
            self._pace.saw_claim(events=events, rows=len(claims))
            tops = {claim.lane: claim.events[0].position or 0 for claim in claims if claim.lane is not None}
            self._lanes.saw(tops, tops)
            self._enqueue(claims, events, sent_at=sent_at)

    # ----------------------------------------------------------------------------------------------------- claiming

    def _wanted(self) -> int:
        """How many events to claim now."""
        # Whatever makes this 0 wakes the claimer when it ends: a session, a slot that is free, an outcome that is
        # settled.
        if not self._running.standing.claimant() or self._in_flight.refused >= REFUSED_LIMIT:
            return 0
        backlog = self._backlog
        if self._listener.batch:
            # A batch fills one slot.
            size = self._pace.batch
            return size if backlog.running + len(backlog.queue) < backlog.slots else 0
        self._pace.shared = self._running.standing.has_others
        return self._pace.wanted(free_slots=backlog.slots - backlog.running, waiting=backlog.waiting)

    @property
    def _piece(self) -> int:
        return 1 if self._listener.transactional and not self._listener.batch else self._pace.piece

    async def _claim(self, wanted: int) -> None:
        self._may_have_work = False
        from_bottom = self._lower_floors()
        lanes = self._lanes.take(held=self._in_flight.lanes)
        if self._listener.ordered and lanes == []:
            return  # what may have rows is held by us, and its settlement wakes us
        self._has_claimed = True
        rows = self._pace.rows(wanted)
        self._claiming = token = uuid4()
        suspects = self._look_for_suspects and self._quarantine.enter(self.wake_for_suspects)
        claims: list[Claim] = []
        try:
            # From before the statement: the lease in the database then ends no earlier than we believe.
            sent_at = now()
            found = await self._send_claim(wanted, lanes or (), token=token, rows=rows, suspects=suspects)
            if from_bottom:
                self._put_off_bottom(began=sent_at)
            claims = await self._skip_missing(found)
        finally:
            # What was claimed is in flight before the next `await`: nothing can find it unknown in between. After an
            # error it stays unknown, and is returned with other forgotten claims.
            self._claiming = None
            # Left here unless a suspect is ours now: then `ClaimsInFlight.remove` leaves it. A claim that failed has
            # none that is ours; if it kept the place, no listener of this process would ever try a suspect again.
            if suspects and not any(claim.suspect for claim in claims):
                self._look_for_suspects = False
                self._quarantine.leave()
        if not claims:
            await self._look_again_if_locked()
            return
        self._locked_pause = LOCKED_PAUSE
        events = sum(len(claim.events) for claim in claims)
        more = events >= wanted or len(claims) >= rows or any(claim.suspect for claim in claims)
        if more:
            self.wake()
        self._pace.saw_claim(events=events, rows=len(claims))
        # Only now: a claim whose answer was lost took rows that nobody here handles, and they must be found again.
        self._raise_floor(claims)
        self._running.telemetry.emit(Claimed(self._listener.name, events))
        self._enqueue(claims, events, sent_at=sent_at)

    async def _send_claim(
        self, wanted: int, lanes: Sequence[int], *, token: UUID, rows: int, suspects: bool
    ) -> list[Claim]:
        terms = ClaimTerms(
            token=token,
            listener_id=self._running.id,
            worker_id=self._running.standing.claimant(),
            lane_floors=self._lanes.floors,
            lanes=lanes,
            floor=self.floor,
            due_floor=self._due_floor,
            rows=rows,
            limit=wanted,
            piece=self._piece,
            lease=self._running.config.lease,
            suspects=suspects,
            blocking=self._listener.blocks,
            left_topics=list(self._known.left),
        )
        claimed = await deliveries.claim(self._running.store, terms, expects_cuts=self._expects_cuts)
        self._lanes.saw(claimed.looked, claimed.tops, claimed.left)
        claims = claimed.claims
        # A run that had to be cut is one of many: the leader makes large ones under load.
        self._expects_cuts = sum(claim.size for claim in claims) >= wanted
        return claims

    async def _look_again_if_locked(self) -> None:
        """A run that many workers were woken for is locked by the first of them, which leaves the rest of it to us."""
        if self._listener.ordered:
            return  # a lane's rest waits for its claimed row, whose settlement wakes us, or another worker does
        if await deliveries.is_work_left(
            self._running.store, listener_id=self._running.id, floor=self.floor, due_floor=self._due_floor
        ):
            asyncio.get_running_loop().call_later(self._locked_pause, self.wake)
            self._locked_pause = min(LOCKED_PAUSE_LIMIT, self._locked_pause * 2)
        else:
            self._locked_pause = LOCKED_PAUSE

    async def _skip_missing(self, claims: Sequence[Claim]) -> list[Claim]:
        """The claims without what someone has deleted from the log: it can be handled by nobody, ever."""
        lacking = [claim for claim in claims if len(claim.events) < claim.size]
        if lacking:
            positions = await deliveries.skip_missing_events(
                self._running.store, lacking, listener_id=self._running.id, worker=self._running.worker
            )
            if positions:
                logger.warning(
                    "%s skips %d events that are no longer in the log: positions %s to %s",
                    self._listener.name, len(positions), positions[0], positions[-1],
                )  # fmt: skip
            self.wake()
        return [claim for claim in claims if claim.events]

    def _enqueue(self, claims: Sequence[Claim], events: int, *, sent_at: float) -> None:
        # Kept for longer, by the time that it took the database to begin; never for less.
        kept_until = sent_at + self._running.config.lease
        # Our clock is set against the database's by when the answer is here, not by when it was asked for. The history
        # then has no attempt begin later than it did, nor before its claim: so a retry, whose claim comes after the
        # attempt that it repeats was settled, begins after that one, in whichever worker it is.
        held_claims = [HeldClaim(claim, now=now(), kept_until=kept_until) for claim in claims]
        for held in held_claims:
            self._in_flight.add(held)
        self._backlog.add(held_claims, events=events)

    # ------------------------------------------------------------------------------------------------------- floors

    def _lower_floors(self) -> bool:
        """Have the next claim scan from the bottom, if it is time to; whether it is."""
        if (at := now()) < self._bottom_at:
            return False
        self._bottom_at = at + BOTTOM_INTERVAL
        self._look_for_suspects = True
        self._lanes.expect()
        self.floor, self._due_floor = 0, -math.inf
        self._known.left.clear()  # they may be nobody's by now
        return True

    def _put_off_bottom(self, *, began: float) -> None:
        if self._bottom_at:  # else somebody has asked for another scan meanwhile
            self._bottom_at = began + deliveries.pause_after_scan(now() - began, least=BOTTOM_INTERVAL)

    def _raise_floor(self, claims: Sequence[Claim]) -> None:
        """Fresh runs come in the order of the log: what we took of them lies behind us.

        What another worker has locked, and gives up, stays below until the next scan from the bottom. An ordered
        listener has a floor for each lane.
        """
        if not self._listener.ordered:
            last = max((claim.events[-1].position or 0 for claim in claims if claim.fresh), default=-1)
            self.floor = max(self.floor, last + 1)
