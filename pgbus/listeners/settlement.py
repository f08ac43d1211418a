"""Claims that a worker holds: which events were tried, what came of each, and the rows that settling writes.

Pure bookkeeping; no I/O.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeAlias

import msgspec

from pgbus.database.statements.deliveries import Claim
from pgbus.handlers.outcomes import DONE, Dead, Done, Outcome, Retry, in_ascii
from pgbus.listeners.done_runs import DoneRuns
from pgbus.messages import EventMessage


class Released(msgspec.Struct, frozen=True):
    """Not started: the event goes back as it was."""


class Blocked(msgspec.Struct, frozen=True):
    """Not started: an event of the same key is a dead letter that blocks it."""


class Alone(msgspec.Struct, frozen=True):
    """Not settled: the event goes back as it was, but in a delivery of its own."""


class Left(msgspec.Struct, frozen=True):
    """Not started: this worker does not declare the event's topic, or cannot read it, and leaves it to one that can."""

    topic: str
    reason: str


RELEASED = Released()
BLOCKED = Blocked()
ALONE = Alone()
Ending: TypeAlias = Outcome | Released | Blocked | Alone | Left


class HeldClaim:
    """One claim while its events are handled. Times are those of the engine's clock.

    Once `kept_until` has passed someone else may have the claim, and none of its events may begin.
    """

    __slots__ = (
        "claim", "durations", "endings", "kept_until", "left", "messages", "next", "offset", "refusals", "started",
    )  # fmt: skip

    def __init__(self, claim: Claim, *, now: float, kept_until: float = math.inf) -> None:
        size = len(claim.events)
        self.claim = claim
        self.kept_until = kept_until
        # The events as their handlers get them: those of the claim, unless hooks change them.
        self.messages = claim.events
        # The index of the event that is begun next: only what lies from there on may be released.
        self.next = 0
        # Events without an ending; at 0 the claim goes to the settler, once.
        self.left = size
        self.endings: list[Ending | None] = [None] * size
        self.started: list[float] = [0.0] * size
        self.durations: list[float] = [0.0] * size
        # What turns our clock into the database's, which says when the claim was made: `now` is when we knew of it.
        self.offset = claim.claimed_at - now
        # How often the database has refused to settle it.
        self.refusals = 0

    def end(self, index: int, ending: Ending, *, started: float, duration: float) -> bool:
        """Note what came of an event; true when it was the last one of the claim."""
        self.endings[index] = ending
        self.started[index] = started + self.offset
        self.durations[index] = duration
        self.left -= 1
        return self.left == 0

    def may_begin(self, now: float) -> bool:
        """Whether an event of it may be handled: it is ours for certain."""
        return now < self.kept_until

    def lapse(self) -> None:
        """Begin no more events of the claim: it is no longer this worker's, or may not be."""
        self.kept_until = -math.inf

    def replace_message(self, index: int, message: EventMessage) -> None:
        """Have the handler get this in place of the claim's event; the engine still uses the claim's."""
        if self.messages is self.claim.events:
            self.messages = list(self.messages)
        self.messages[index] = message

    def spell_in_ascii(self) -> bool:
        """Say what failed in ASCII, for a database whose encoding cannot hold it; false when that changes nothing."""
        spelt = [_in_ascii(ending) for ending in self.endings]
        changed = spelt != self.endings
        self.endings = spelt
        return changed

    @property
    def done_messages(self) -> list[EventMessage]:
        """The events that are done, as their handlers got them."""
        return [
            message for message, ending in zip(self.messages, self.endings, strict=True) if isinstance(ending, Done)
        ]

    def with_rest_done(self, *, started: float, duration: float) -> HeldClaim:
        """A copy in which every event without an ending is done: what a transaction settles that may yet fail."""
        # A copy: if the transaction fails, the attempt is judged, and this claim may be settled in another way. It
        # sets the offset itself, whatever `now` was.
        held = HeldClaim(self.claim, now=0.0)
        held.offset, held.next, held.left = self.offset, self.next, self.left
        held.messages = self.messages
        held.endings, held.started, held.durations = list(self.endings), list(self.started), list(self.durations)
        for index, ending in enumerate(held.endings):
            if ending is None:
                held.end(index, DONE, started=started, duration=duration)
        return held

    def release_rest(self) -> int:
        """Give back every event that nobody has started; how many there were."""
        rest = range(self.next, len(self.endings))
        for index in rest:
            if self.endings[index] is None:
                self.endings[index] = RELEASED
                self.left -= 1
        self.next = len(self.endings)
        return len(rest)

    def release_running(self) -> None:
        """Give back every event without an ending."""
        for index, ending in enumerate(self.endings):
            if ending is None:
                self.endings[index] = RELEASED
        self.left = 0


class Tally(msgspec.Struct):
    """How many events ended how."""

    done: int = 0
    retried: int = 0
    dead: int = 0


def settlement(
    held_claims: Iterable[HeldClaim], *, listener_id: int, worker: str, blocking: bool, xid: int | None = None
) -> tuple[dict[str, Any], Tally, list[float]]:
    """The values that settle claims whose events have all ended, a tally, and the delays of retries.

    With an `xid` they are only settled in that transaction.
    """
    done = DoneRuns()
    others: tuple[list[Any], ...] = tuple([] for _ in _OTHER_COLUMNS)
    ids: list[int] = []
    tokens: list[Any] = []
    tally = Tally()
    delays: list[float] = []
    for held in held_claims:
        claim = held.claim
        ids.append(claim.id)
        tokens.append(claim.token)
        if all(type(ending) is Done for ending in held.endings):
            positions = [event.position or 0 for event in claim.events]
            done.add(claim, positions, started=held.started, durations=held.durations)
            tally.done += len(positions)
        else:
            _add_mixed(done, others, held, tally, delays)
    values = {
        "listener_id": listener_id,
        "worker": worker,
        "blocking": blocking,
        "xid": xid,
        "delivery_ids": ids,
        "claim_tokens": tokens,
        **done.values(),
        **{f"other_{name}": column for name, column in zip(_OTHER_COLUMNS, others, strict=True)},
    }
    return values, tally, delays


_OTHER_COLUMNS = (
    "deliveries",
    "positions",
    "attempts",
    "outcomes",
    "started",
    "durations",
    "lanes",
    "delays",
    "errors",
    "fingerprints",
    "tracebacks",
    "keys",
    "left_topics",
)


def _add_mixed(
    done: DoneRuns, others: tuple[list[Any], ...], held: HeldClaim, tally: Tally, delays: list[float]
) -> None:
    claim = held.claim
    finished: list[tuple[int, float, float]] = []
    columns = zip(claim.events, held.endings, held.started, held.durations, strict=True)
    for event, ending, started, duration in columns:
        if isinstance(ending, Done):
            finished.append((event.position or 0, started, duration))
            continue
        name, delay, error, fingerprint, traceback = _describe(ending)
        if isinstance(ending, Retry):
            tally.retried += 1
            delays.append(ending.delay)
        elif isinstance(ending, Dead):
            tally.dead += 1
        tried = (claim.id, event.position, claim.attempt, name, started, duration)
        left_topic = ending.topic if isinstance(ending, Left) else None
        row = (*tried, claim.lane, delay, error, fingerprint, traceback, event.key, left_topic)
        for column, value in zip(others, row, strict=True):
            column.append(value)
    if finished:
        positions, began, durations = zip(*finished, strict=True)
        done.add(claim, positions, started=began, durations=durations)
        tally.done += len(finished)


def _in_ascii(ending: Ending | None) -> Ending | None:
    match ending:
        case Retry(error=error):
            return replace(ending, error=in_ascii(error))
        case Dead(error=error, fingerprint=fingerprint, traceback=traceback):
            return replace(
                ending,
                error=in_ascii(error),
                fingerprint=fingerprint and in_ascii(fingerprint),
                traceback=traceback and in_ascii(traceback),
            )
        case _:
            return ending


def _describe(ending: Ending | None) -> tuple[str, float | None, str | None, str | None, str | None]:
    match ending:
        case Retry(delay=delay, error=error):
            return "retry", delay, error, None, None
        case Dead(error=error, fingerprint=fingerprint, traceback=traceback):
            return "dead", None, error, fingerprint, traceback
        case Blocked():
            return "blocked", None, None, None, None
        case Alone():
            return "alone", None, None, None, None
        case Left(reason=reason):
            return "left", None, reason, None, None
        case _:
            return "released", None, None, None, None
