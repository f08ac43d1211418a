"""Publishing without I/O: check an event and all that goes with it, so that it can be inserted.

Whatever can be wrong with an event is found here, so that a refused one leaves the caller's transaction as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from typing import NamedTuple
from uuid import UUID

import msgspec

from pgbus.causality import current_headers, is_caused
from pgbus.codec.headers import encode_headers, join_headers
from pgbus.codec.payloads import encode, encode_lines
from pgbus.database.event_ids import new_event_id, new_event_ids
from pgbus.database.statements.bound import Bound
from pgbus.database.statements.outbox import Statements, cancel_event, insert_event
from pgbus.errors import InvalidEventError
from pgbus.events import Checker, ancestors_of, checker, topic_of
from pgbus.messages import EventMessage, OpenEvent
from pgbus.publishing.rows import CHUNK_ROWS, CHUNK_SIZE, Lines, OutboxRow, Part, in_parts, joined
from pgbus.topics import check_topic, split_name

# Characters; the domain `pgbus.key` and the table of dedup keys have the same limit.
MAX_KEY_LENGTH = 255
# A hundred years, in seconds: far beyond it, adding the delay to the clock fails in the database.
MAX_DELAY = 36_525 * 86_400.0


@dataclass(frozen=True, slots=True, eq=False)
class Limits:
    """The limits of a published event.

    - `max_payload`: the largest payload, in bytes of JSON; 1 MiB by default.
    - `is_checked`: whether instances of event classes are to be of their fields' types, by the API's name.
    """

    max_payload: int = 1_048_576
    is_checked: Callable[[str], bool] = lambda _: True


# ------------------------------------------------------------------------------------------------------------- checking


def prepare(
    event: object,
    *,
    topic: str | None = None,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    deliver_at: datetime | None = None,
    delay: float | None = None,
    dedup_key: str | None = None,
    event_id: UUID | str | None = None,
    limits: Limits,
) -> OutboxRow:
    """Check an event and all that goes with it; nothing is written. The current cause is among its headers.

    `topic` is needed where the event's class has none from `@event`, and replaces that one where it has. `key` and
    `dedup_key` are 1 to 255 characters; the headers' JSON at most 8 KiB; `delay` is in seconds, 0 is at once.
    `event_id` is a new UUIDv7 unless given.
    Raises InvalidEventError, whose `field` is the name of the wrong argument, or "payload"; among them DeformError for
    what has no JSON form, and InvalidEventArguments for a field of an event class that is not of its type.
    """
    if deliver_at is not None and delay is not None:
        raise InvalidEventError("delay", "give either deliver_at or delay, not both")
    kind, payload = _encode_checked(event, topic, limits)
    return OutboxRow(
        event_id=new_event_id() if event_id is None else _check_event_id(event_id),
        topic=kind.topic,
        payload=payload,
        ancestors=kind.ancestors,
        key=None if key is None else _check_key("key", key),
        headers=join_headers(current_headers(), headers),
        deliver_at=None if deliver_at is None else _check_deliver_at(deliver_at),
        delay=None if delay is None else _check_delay(delay),
        dedup_key=None if dedup_key is None else _check_key("dedup_key", dedup_key),
    )


def prepare_plain(
    event: object, *, topic: str | None, key: str | None, limits: Limits, statements: Statements, service: str
) -> tuple[EventMessage, Bound]:
    """`prepare` for an event that has a key at most, as most have: the event, and the statement that inserts it.

    Flat, as between a program's own work each function that is called, and each object that is made, costs several
    times what it does in a loop (decision 73).
    """
    kind, payload = _encode_checked(event, topic, limits)
    event_id = new_event_id()
    if key is not None:
        _check_key("key", key)
    headers = join_headers(current_headers(), None) if is_caused() else None
    message = EventMessage(
        topic=kind.topic,
        raw=payload,
        event_id=event_id,
        key=key,
        raw_headers=headers,
        ancestors=kind.ancestors or None,
    )
    bound = insert_event(
        statements,
        event_id=str(event_id),
        topic=kind.topic,
        ancestors=kind.ancestors_text,
        key=key,
        payload=payload,
        headers=headers,
        published_by=service or None,
    )
    return message, bound


def prepare_many(events: Iterable[object], *, topic: str | None = None, limits: Limits) -> list[Part]:
    """`prepare` for many events that have nothing but a topic, in parts that one INSERT each takes.

    Raises InvalidEventError for the first that is refused, before any of them is published.
    """
    # All of them are encoded before the first is sent: a generator that fails halfway, or a bad event, publishes
    # nothing.
    parts: list[Part] = []
    remaining = iter(events)
    while some := list(islice(remaining, CHUNK_ROWS)):
        lines = _in_lines(some, topic, limits)
        parts += [lines] if lines else in_parts([prepare(event, topic=topic, limits=limits) for event in some])
    return parts


def _in_lines(events: Sequence[object], topic: str | None, limits: Limits) -> Lines | None:
    """Events of one class, all at once; None where `prepare` has to look at each of them."""
    if len(events) == 1 or len(set(map(type, events))) > 1:
        return None
    kind = _kind_of(type(events[0]), topic, limits)
    payloads = encode_lines(events, limit=limits.max_payload)
    if payloads is None or len(payloads) > CHUNK_SIZE or (kind.checker and not kind.checker.accepts_lines(payloads)):
        return None
    headers = join_headers(current_headers(), None)
    return Lines(new_event_ids(len(events)), kind.topic, payloads, kind.ancestors, headers)


def revise(row: OutboxRow, message: OpenEvent, *, limits: Limits) -> OutboxRow:
    """The row with the payload, headers and key that its message has now; raises InvalidEventError as `prepare` does.

    The message is closed: it is what the row is.
    """
    payload, headers = row.payload, row.headers
    if message.has_new_payload:
        payload = encode(message.payload, limit=limits.max_payload)
    if message.has_new_headers:
        headers = encode_headers(message.headers)
    key = None if message.key is None else _check_key("key", message.key)
    message.close(raw=payload, raw_headers=headers)
    return msgspec.structs.replace(row, payload=payload, headers=headers, key=key)


class _Kind(NamedTuple):
    """The common properties of all events of one class. `ancestors_text` has spaces between them; None without any."""

    topic: str
    ancestors: tuple[str, ...]
    ancestors_text: str | None
    checker: Checker | None


def _encode_checked(event: object, topic: object, limits: Limits) -> tuple[_Kind, str]:
    """Return the common properties of events like this one, and its payload."""
    kind = _kind_of(type(event), topic, limits)
    payload = encode(event, limit=limits.max_payload)
    if kind.checker:
        kind.checker.check(payload, event)
    return kind, payload


def _kind_of(cls: type, topic: object, limits: Limits) -> _Kind:
    if topic is None:
        topic = topic_of(cls)
    elif not isinstance(topic, str):
        raise InvalidEventError("topic", f"must be a str, not {type(topic).__name__}")
    return _find_kind(cls, topic, limits)


@lru_cache(maxsize=1024)
def _find_kind(cls: type, topic: str | None, limits: Limits) -> _Kind:
    if topic is None:
        raise InvalidEventError(
            "topic", f"{cls.__qualname__} has none; decorate the class with @event(...) or publish with topic=..."
        )
    check_topic(topic)
    ancestors = ancestors_of(cls)
    is_checked = limits.is_checked(split_name(topic)[0])
    return _Kind(topic, ancestors, joined(ancestors), checker(cls) if is_checked else None)


def _check_key(field: str, key: object) -> str:
    if not isinstance(key, str):
        raise InvalidEventError(field, f"must be a str, not {type(key).__name__}")
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise InvalidEventError(field, f"1 to {MAX_KEY_LENGTH} characters are allowed, this has {len(key)}")
    _check_text(field, key)
    return key


def _check_text(field: str, text: str) -> None:
    if "\x00" in text:
        raise InvalidEventError(field, f"{text!r} holds a NUL character, which PostgreSQL cannot store")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidEventError(field, f"{text!r} holds a lone surrogate, which is not a character") from None


def _check_deliver_at(deliver_at: object) -> datetime:
    if not isinstance(deliver_at, datetime):
        raise InvalidEventError("deliver_at", f"must be a datetime, not {type(deliver_at).__name__}")
    if deliver_at.utcoffset() is None:
        raise InvalidEventError(
            "deliver_at", f"{deliver_at} has no time zone; use an aware datetime, as datetime.now(UTC)"
        )
    try:
        return deliver_at.astimezone(UTC)
    except OverflowError:
        raise InvalidEventError("deliver_at", f"{deliver_at} is beyond the years 1 to 9999 in UTC") from None


def _check_delay(delay: object) -> float | None:
    if isinstance(delay, bool) or not isinstance(delay, (int, float)):
        raise InvalidEventError("delay", f"must be a number of seconds, not {type(delay).__name__}")
    if not 0 <= delay <= MAX_DELAY:
        raise InvalidEventError("delay", f"0 to {MAX_DELAY:.0f} seconds are allowed, this is {delay}")
    return float(delay) or None


def _check_event_id(event_id: UUID | str) -> UUID:
    if isinstance(event_id, UUID):
        return event_id
    try:
        return UUID(str(event_id))
    except ValueError:
        raise InvalidEventError("event_id", f"{event_id!r} is not a UUID") from None


def cancel(event_id: UUID | str, statements: Statements) -> Bound:
    """The statement that cancels a scheduled event, and its values; it returns a row if the event was not yet due.

    Raises InvalidEventError for what is not a UUID.
    """
    return cancel_event(statements, event_id=_check_event_id(event_id))
