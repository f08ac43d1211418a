"""Queries of operators: the current state, the history, the calls and the dead letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypeAlias
from uuid import UUID

import msgspec

from pgbus.database.statements.rows import event_of
from pgbus.database.store import Store
from pgbus.messages import EventMessage
from pgbus.topics import split_name

Outcome: TypeAlias = Literal["done", "retry", "dead", "discarded", "skipped"]

# Seconds without a report after which a live worker counts as one that hangs.
SILENCE = 35.0
# Seconds in which every event should have entered the log; it takes milliseconds.
OUTBOX_AGE = 10.0


class WorkerStatus(msgspec.Struct, frozen=True):
    """A worker process. It is `live` while its advisory lock is held; else it is gone and not yet cleaned up.

    `silent_for` is the number of seconds since it reported last, by the database's clock; workers report every 10 s. It
    is `asleep` when the whole bus is, as nothing is owed: then nobody reports, and nobody leads.
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
    silent_for: float
    live: bool
    asleep: bool
    leading: bool
    leading_since: datetime | None

    @property
    def hangs(self) -> bool:
        """Whether it holds its lock but does not report: its process is stopped, or its event loop hangs."""
        return self.live and not self.asleep and self.silent_for > SILENCE


class ListenerStatus(msgspec.Struct, frozen=True):
    """A listener and its lag.

    `lag_events` are owed to it, the oldest for `lag_seconds`; of these `in_flight` are with workers, `retrying` wait
    for another attempt and `blocked`, which have `blocked_keys`, for a person. `dead` are its dead letters. `cursor` is
    the position from which the leader still owes it the log, None when it is live. `owner` is who `@about` says to ask.
    """

    listener_name: str
    state: Literal["active", "paused"]
    service: str
    owner: str
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
    blocked_keys: int
    dead: int


class LogStatus(msgspec.Struct, frozen=True):
    """The outbox and the log at one moment.

    `outbox_waiting` events are not in the log yet, the oldest for `outbox_age` seconds; `outbox_scheduled` wait for
    their `deliver_at`. `log_head` is the last position of the log, 0 when it is empty. `encoding` is the database's.
    """

    outbox_waiting: int
    outbox_scheduled: int
    outbox_age: float
    log_head: int
    encoding: str

    @property
    def is_late(self) -> bool:
        """Whether an event has waited for the log much longer than any should."""
        return self.outbox_age > OUTBOX_AGE


class Attempt(msgspec.Struct, frozen=True):
    """One attempt of one listener at an event; `duration` is in seconds."""

    listener_name: str
    attempt: int
    outcome: Outcome
    started_at: datetime
    duration: float
    worker: str
    error: str | None


class Owed(msgspec.Struct, frozen=True):
    """A listener that an event is still owed to. `behind`: the leader has yet to hand it this stretch of the log."""

    listener_name: str
    state: Literal["waiting", "in flight", "parked", "retrying", "blocked", "behind"]
    attempt: int
    available_at: datetime | None
    worker: str | None
    last_error: str | None


class GivenUp(msgspec.Struct, frozen=True):
    """A listener for which an event is a dead letter, and the id of the dead letter."""

    listener_name: str
    dead_letter: int


class EventRecord(msgspec.Struct, frozen=True):
    """An event of the log, every attempt at it (oldest first), whom it is still owed to, and its dead letters."""

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


class CallRecord(msgspec.Struct, frozen=True):
    """A call of the log of calls: `arguments` and `result` are JSON text, `duration` is in seconds, from claim to
    response.
    """

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


class DeadLetter(msgspec.Struct, frozen=True):
    """An event that one listener gave up on.

    `blocked_key` is set for a listener that blocks on poison: its later events with this key wait until the letter is
    retried or discarded; `blocked` of them are waiting already. `retried` is how often people retried or replayed it
    before.
    """

    id: int
    listener_name: str
    event: EventMessage
    attempts: int
    error: str
    fingerprint: str | None
    traceback: str | None
    worker: str
    dead_at: datetime
    blocked_key: str | None
    blocked: int
    retried: int


class DeadGroup(msgspec.Struct, frozen=True):
    """Dead letters of one listener that failed alike.

    `error` is their fingerprint, or the kind of their error where they have none: without ids, numbers and quoted
    strings; a DeadFilter takes it. `example` is that kind in any case, of the newest, whose id is `sample`. `letters`
    is how many, `trend` how many died in each of the last 24 hours, the oldest first, `retried` those that people have
    had retried before; `blocked_keys` is how many keys they block.
    """

    listener_name: str
    error: str
    letters: int
    first_at: datetime
    last_at: datetime
    sample: int
    example: str
    trend: list[int]
    retried: int
    blocked_keys: int


# ---------------------------------------------------------------------------------------- what is asked for; None: any


class EventCriteria(msgspec.Struct, frozen=True, kw_only=True):
    """Conditions on events of the log. `condition` and `version_condition` are SQL/JSON paths."""

    topic_regex: str | None
    name_regex: str | None
    version_condition: str | None
    key: str | None
    error: str | None
    event_id: UUID | None
    since: datetime | None
    until: datetime | None
    after: int
    before: int | None
    condition: str | None
    service: str | None
    outcome: Outcome | None
    owed_to: str | None
    dead: bool


class CallCriteria(msgspec.Struct, frozen=True, kw_only=True):
    """Conditions on calls; `condition` is an SQL/JSON path into the arguments."""

    name_regex: str | None
    call_id: UUID | None
    error: str | None
    since: datetime | None
    until: datetime | None
    condition: str | None


def parameters(criteria: EventCriteria | CallCriteria) -> dict[str, Any]:
    """The criteria as parameters of their statement."""
    return msgspec.structs.asdict(criteria)


# ----------------------------------------------------------------------------------------------------------- statements


async def describe_bus(store: Store) -> LogStatus:
    """The outbox and the log."""
    return LogStatus(**await store.fetch_one("describe_bus"))


async def find_leader_session(store: Store) -> int | None:
    """The process id of the backend that holds the leader's lock; None if nobody leads."""
    rows = await store.fetch("find_leader_session", namespace=store.namespace)
    return rows[0]["pid"] if rows else None


async def list_workers(store: Store) -> tuple[WorkerStatus, ...]:
    """Return every listed worker, sorted by id."""
    return tuple(
        WorkerStatus(**{**row, "listeners": tuple(row["listeners"]), "failures": msgspec.json.decode(row["failures"])})
        for row in await store.fetch("list_workers", namespace=store.namespace)
    )


async def list_listeners(store: Store) -> tuple[ListenerStatus, ...]:
    """Return every registered listener, sorted by name."""
    rows = await store.fetch("list_listeners")
    return tuple(ListenerStatus(**{**row, "patterns": tuple(row["patterns"])}) for row in rows)


async def list_listener_names(store: Store) -> list[str]:
    """The name of every listener."""
    return [row["listener_name"] for row in await store.fetch("list_listener_names")]


async def find_events(store: Store, criteria: EventCriteria, *, limit: int, newest_first: bool) -> list[EventRecord]:
    """At most `limit` events of the log, with what each listener did with them."""
    rows = await store.fetch("find_events", **parameters(criteria), limit=limit, newest_first=newest_first)
    return [
        EventRecord(
            event=event_of(row),
            logged_at=row["logged_at"],
            attempts=msgspec.json.decode(row["attempts"], type=tuple[Attempt, ...]),
            owed=msgspec.json.decode(row["owed"], type=tuple[Owed, ...]),
            given_up=msgspec.json.decode(row["given_up"], type=tuple[GivenUp, ...]),
        )
        for row in rows
    ]


async def find_calls(store: Store, criteria: CallCriteria, *, limit: int) -> list[CallRecord]:
    """Return at most `limit` calls that are not pruned yet, the newest first."""
    return [CallRecord(**row) for row in await store.fetch("find_calls", **parameters(criteria), limit=limit)]


async def read_log_head(store: Store) -> int:
    """The last position of the log, 0 when it is empty."""
    head: int = (await store.fetch_one("read_log_head"))["log_head"]
    return head


async def find_position_at(store: Store, *, instant: datetime) -> int:
    """The position of the first event that entered the log at an instant or after it, or else the end of the log."""
    position: int = (await store.fetch_one("find_position_at", instant=instant))["position"]
    return position


async def match_dead_letters(store: Store, filter_: Mapping[str, object], *, limit: int | None) -> list[int]:
    """The ids of at most `limit` dead letters that a filter of operations accepts, newest first."""
    text = msgspec.json.encode(filter_).decode()
    return [row["id"] for row in await store.fetch("match_dead_letters", filter=text, limit=limit)]


async def read_dead_letters(store: Store, ids: Sequence[int]) -> list[DeadLetter]:
    """Dead letters with their events, newest first."""
    own = [name for name in DeadLetter.__struct_fields__ if name != "event"]
    rows = await store.fetch("read_dead_letters", ids=ids)
    return [DeadLetter(event=event_of(row), **{name: row[name] for name in own}) for row in rows]


async def summarize_dead_letters(store: Store, ids: Sequence[int]) -> list[DeadGroup]:
    """Dead letters in groups, the largest first."""
    return [DeadGroup(**row) for row in await store.fetch("summarize_dead_letters", ids=ids)]
