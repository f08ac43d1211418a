"""What operators ask with and get back: filters, and the bus, its events and dead letters as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from pgbus.admin.conditions import Condition, combine
from pgbus.admin.name_filter import EVERY_NAME, Names
from pgbus.admin.schedules import ScheduleStatus
from pgbus.messages import EventMessage
from pgbus.topics import pattern_regex, split_name


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker process. It is `live` while its advisory lock is held; else it is gone and not yet cleaned up.

    `failures` are its parts that failed by a fault of code and wait to begin again, with their errors: `listener NAME`,
    `calls` or `schedules`.
    """

    id: int
    name: str
    service: str
    host: str
    pid: int
    version: str
    listeners: tuple[str, ...]
    failures: Mapping[str, str]
    started_at: datetime
    last_seen_at: datetime
    live: bool
    leading: bool
    leading_since: datetime | None


@dataclass(frozen=True, slots=True)
class ListenerStatus:
    """A listener and how far it is behind.

    `lag_events` are owed to it, the oldest for `lag_seconds`; of these `in_flight` are with workers, `retrying` wait
    for another attempt and `blocked` for a person. `dead` are its dead letters. `cursor` is the position from which
    the leader still owes it the log, None when it is live.
    """

    listener_name: str
    state: Literal["active", "paused"]
    service: str
    patterns: tuple[str, ...]
    ordered: bool
    cursor: int | None
    registered_at: datetime
    last_seen_at: datetime
    lag_events: int
    lag_seconds: float
    in_flight: int
    retrying: int
    blocked: int
    dead: int


@dataclass(frozen=True, slots=True)
class BusStatus:
    """The bus at one moment.

    `outbox_waiting` events are not in the log yet, the oldest for `outbox_age` seconds; `outbox_scheduled` wait for
    their `deliver_at`. `log_head` is the last position of the log, 0 when it is empty. `encoding` is the database's.
    """

    outbox_waiting: int
    outbox_scheduled: int
    outbox_age: float
    log_head: int
    encoding: str
    listeners: tuple[ListenerStatus, ...]
    workers: tuple[WorkerStatus, ...]
    schedules: tuple[ScheduleStatus, ...]

    @property
    def leader(self) -> WorkerStatus | None:
        """The worker that leads; None when nobody does, and then nothing enters the log."""
        return next((worker for worker in self.workers if worker.leading), None)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of an event at one listener in one attempt; `duration` is in seconds."""

    listener_name: str
    attempt: int
    outcome: Literal["done", "retry", "dead", "discarded", "skipped"]
    started_at: datetime
    duration: float
    worker: str
    error: str | None


@dataclass(frozen=True, slots=True)
class Owed:
    """A listener that an event is still owed to. `behind`: the leader has yet to hand it this stretch of the log."""

    listener_name: str
    state: Literal["waiting", "in flight", "retrying", "blocked", "behind"]
    attempt: int
    available_at: datetime | None
    worker: str | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A listener that gave an event up, and the id of the dead letter that it lies in."""

    listener_name: str
    dead_letter: int


@dataclass(frozen=True, slots=True)
class EventRecord:
    """An event of the log, every attempt at it (oldest first), whom it is still owed to, and who gave it up."""

    event: EventMessage
    logged_at: datetime
    attempts: tuple[Attempt, ...]
    owed: tuple[Owed, ...]
    given_up: tuple[GivenUp, ...]

    @property
    def states(self) -> dict[str, str]:
        """Where the event stands with each listener: what it waits for, `dead`, or how the last attempt ended."""
        return {
            **{attempt.listener_name: attempt.outcome for attempt in self.attempts},
            **{one.listener_name: "dead" for one in self.given_up},
            **{owed.listener_name: owed.state for owed in self.owed},
        }


@dataclass(frozen=True, slots=True)
class CallRecord:
    """A call of the log of calls: `arguments` and `result` are JSON text, `duration` seconds in the worker's hands."""

    call_id: UUID
    procedure: str
    arguments: str
    caller: str
    worker: str | None
    state: Literal[
        "waiting", "running", "answered", "failed", "refused", "invalid", "expired", "cancelled", "lost", "unserved"
    ]
    requested_at: datetime
    deadline: datetime
    started_at: datetime | None
    responded_at: datetime | None
    duration: float | None
    result: str | None
    error_type: str | None
    error: str | None
    traceback: str | None

    @property
    def api_name(self) -> str:
        """The procedure's name up to its last dot."""
        return split_name(self.procedure)[0]

    @property
    def procedure_name(self) -> str:
        """The last word of the procedure's name."""
        return split_name(self.procedure)[1]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that one listener gave up on.

    `blocked_key` is set for a listener that blocks on poison: its later events with this key wait until the letter is
    retried or discarded; `blocked` of them are waiting already.
    """

    id: int
    listener_name: str
    event: EventMessage
    attempts: int
    error: str
    traceback: str | None
    worker: str
    dead_at: datetime
    blocked_key: str | None
    blocked: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events of the log; None does not restrict.

    `topic` is a pattern and matches as a subscription does. `names` is compared with the event's own topic. `version`
    conditions, on the path `version`, must all hold for the version of the event's API. `since` (inclusive) and `until`
    (exclusive) are compared with the instant at which an event entered the log, `after` and `before` (both exclusive)
    with its position. `where` conditions on the payload must all hold. `owed_to` is a listener that has yet to handle
    the event; `dead` events lie in a dead letter.
    """

    topic: str | None = None
    names: Names = EVERY_NAME
    version: tuple[Condition, ...] = ()
    key: str | None = None
    event_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    after: int | None = None
    before: int | None = None
    where: tuple[Condition, ...] = ()
    owed_to: str | None = None
    dead: bool = False

    def __post_init__(self) -> None:
        _regex(self.topic)
        _check_aware(self.since, self.until)

    def values(self) -> dict[str, object]:
        """The parameters of `find_events` that this filter decides."""
        condition, variables = combine(self.where)
        version_condition, version_variables = combine(self.version)
        return {
            "topic_regex": _regex(self.topic),
            "name_regex": self.names.regex(),
            "version_condition": version_condition,
            "version_variables": version_variables,
            "key": self.key,
            "event_id": self.event_id,
            "since": self.since,
            "until": self.until,
            "after": -1 if self.after is None else self.after,
            "before": self.before,
            "condition": condition,
            "variables": variables,
            "owed_to": self.owed_to,
            "dead": self.dead,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFilter:
    """Which calls of the log of calls; None does not restrict.

    `since` (inclusive) and `until` (exclusive) are compared with the instant of asking. `where` conditions on the
    arguments must all hold.
    """

    names: Names = EVERY_NAME
    call_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    where: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        _check_aware(self.since, self.until)

    def values(self) -> dict[str, object]:
        """The parameters of `find_calls` that this filter decides."""
        condition, variables = combine(self.where)
        return {
            "name_regex": self.names.regex(),
            "call_id": self.call_id,
            "since": self.since,
            "until": self.until,
            "condition": condition,
            "variables": variables,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadFilter:
    """Which dead letters; None does not restrict. `since` (inclusive) is compared with the instant of giving up."""

    ids: tuple[int, ...] | None = None
    listener_name: str | None = None
    topic: str | None = None
    since: datetime | None = None

    def __post_init__(self) -> None:
        _regex(self.topic)
        _check_aware(self.since)

    def values(self) -> dict[str, object]:
        """The parameters of `match_dead_letters` that this filter decides."""
        return {
            "ids": None if self.ids is None else list(self.ids),
            "listener_name": self.listener_name,
            "topic_regex": _regex(self.topic),
            "since": self.since,
        }


def _regex(pattern: str | None) -> str | None:
    return None if pattern is None else pattern_regex(pattern)


def _check_aware(*instants: datetime | None) -> None:
    for instant in instants:
        if instant is not None and instant.tzinfo is None:
            raise ValueError(f"{instant} has no time zone: give an aware datetime")
