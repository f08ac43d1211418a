"""Filters of events, calls and dead letters, for operators."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from pgbus.admin.conditions import Condition, combine
from pgbus.admin.name_filter import EVERY_NAME, Names
from pgbus.database.statements.inspection import CallCriteria, EventCriteria, Outcome
from pgbus.topics import pattern_regex


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events of the log; None does not restrict.

    `topic` is a pattern and matches as a subscription does. `names` is compared with the event's own topic. `version`
    conditions, on the path `version`, must all hold for the version of the event's API. `since` (inclusive) and `until`
    (exclusive) are compared with the instant at which an event entered the log, `after` and `before` (both exclusive)
    with its position. `error` is a part of an attempt's error, in any case, or its kind, as a DeadGroup has it.
    `where` conditions on the payload must all hold. `service` has published the event. `outcome` is that of an attempt
    at it. `owed_to` is a listener that has yet to handle the event; `dead`
    events lie in a dead letter.
    """

    topic: str | None = None
    names: Names = EVERY_NAME
    version: tuple[Condition, ...] = ()
    key: str | None = None
    error: str | None = None
    event_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    after: int | None = None
    before: int | None = None
    where: tuple[Condition, ...] = ()
    service: str | None = None
    outcome: Outcome | None = None
    owed_to: str | None = None
    dead: bool = False

    def __post_init__(self) -> None:
        _regex(self.topic)
        _check_aware(self.since, self.until)

    def criteria(self) -> EventCriteria:
        """The filter in the words of the statement."""
        return EventCriteria(
            topic_regex=_regex(self.topic),
            name_regex=self.names.regex(),
            version_condition=combine(self.version),
            key=self.key,
            error=self.error,
            event_id=self.event_id,
            since=self.since,
            until=self.until,
            after=-1 if self.after is None else self.after,
            before=self.before,
            condition=combine(self.where),
            service=self.service,
            outcome=self.outcome,
            owed_to=self.owed_to,
            dead=self.dead,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFilter:
    """Which calls of the log of calls; None does not restrict.

    `since` (inclusive) and `until` (exclusive) are compared with the instant of asking. `error` is a part of the error
    that the call failed with, in any case. `where` conditions on the arguments must all hold.
    """

    names: Names = EVERY_NAME
    call_id: UUID | None = None
    error: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    where: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        _check_aware(self.since, self.until)

    def criteria(self) -> CallCriteria:
        """The filter in the words of the statement."""
        return CallCriteria(
            name_regex=self.names.regex(),
            call_id=self.call_id,
            error=self.error,
            since=self.since,
            until=self.until,
            condition=combine(self.where),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadFilter:
    """Which dead letters; None does not restrict.

    `since` (inclusive) and `until` (exclusive) are compared with the instant of giving up. `error` is a fingerprint,
    the type of an exception, the kind of error that a DeadGroup has, or a part of the error in any case. `where`
    conditions on the payload must all hold.
    """

    ids: tuple[int, ...] | None = None
    listener_name: str | None = None
    topic: str | None = None
    key: str | None = None
    error: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    where: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        _regex(self.topic)
        _check_aware(self.since, self.until)

    def as_filter(self) -> dict[str, object]:
        """The filter of an operation."""
        given = {
            "ids": self.ids,
            "listener": self.listener_name,
            "topic": self.topic,
            "since": self.since,
            "until": self.until,
            "key": self.key,
            "error": self.error,
            "condition": combine(self.where),
        }
        return {name: value for name, value in given.items() if value is not None}


def _regex(pattern: str | None) -> str | None:
    return None if pattern is None else pattern_regex(pattern)


def _check_aware(*instants: datetime | None) -> None:
    for instant in instants:
        if instant is not None and instant.tzinfo is None:
            raise ValueError(f"{instant} has no time zone: give an aware datetime")


EVERY_EVENT = EventFilter()
EVERY_DEAD_LETTER = DeadFilter()
EVERY_CALL = CallFilter()
