"""Publishing without I/O: check an event, and give the statement and the values that put it into the outbox.

Whatever can be wrong with an event is found here, so that a refused one leaves the caller's transaction as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from pgbus.codec.headers import encode_headers
from pgbus.codec.payloads import encode
from pgbus.database.event_ids import new_event_id
from pgbus.database.sql import Statement
from pgbus.errors import InvalidEventError
from pgbus.events import ancestors_of, checker, topic_of
from pgbus.messages import EventMessage, OpenEvent
from pgbus.topics import check_topic, split_name

MAX_KEY_LENGTH = 255
# A hundred years, in seconds: far beyond it, adding the delay to the clock fails in the database.
MAX_DELAY = 36_525 * 86_400.0

# A longer INSERT costs hardly less a row, and a driver holds all that it sends in memory once more.
_CHUNK_ROWS = 2_000
_CHUNK_SIZE = 8_388_608


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be published.

    - `max_payload`: the largest payload, in bytes of JSON; 1 MiB by default.
    - `is_checked`: whether instances of event classes are to be of their fields' types, by the API's name.
    """

    max_payload: int = 1_048_576
    is_checked: Callable[[str], bool] = lambda _: True


class OutboxRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event that was checked, as `insert` takes it. `payload` and `headers` are JSON text.

    `delay` is in seconds, from the INSERT on, by the database's clock; `deliver_at` is in UTC. Not both are given.
    """

    event_id: UUID
    topic: str
    payload: str
    ancestors: tuple[str, ...] = ()
    key: str | None = None
    headers: str | None = None
    deliver_at: datetime | None = None
    delay: float | None = None
    dedup_key: str | None = None

    def message(self) -> EventMessage:
        """The event as its publisher knows it: without the instants that the database will give it."""
        return EventMessage(
            topic=self.topic,
            raw=self.payload,
            event_id=self.event_id,
            key=self.key,
            raw_headers=self.headers,
            ancestors=self.ancestors or None,
            deliver_at=self.deliver_at,
        )


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
    """Check an event and all that goes with it; nothing is written.

    `topic` is needed where the event's class has none from `@event`, and replaces that one where it has. `key` and
    `dedup_key` are 1 to 255 characters; the headers' JSON at most 8 KiB; `delay` is in seconds, 0 is at once.
    `event_id` is a new UUIDv7 unless given.
    Raises InvalidEventError, whose `field` is the name of the wrong argument, or "payload"; among them DeformError for
    what has no JSON form, and InvalidEventArguments for a field of an event class that is not of its type.
    """
    kind: type = type(event)
    if deliver_at is not None and delay is not None:
        raise InvalidEventError("delay", "give either deliver_at or delay, not both")
    name = _topic(kind) if topic is None else _check_topic(topic)
    payload = encode(event, limit=limits.max_payload)
    if check := _checker(kind, name, limits):
        check(payload, event)
    return OutboxRow(
        event_id=new_event_id() if event_id is None else _check_event_id(event_id),
        topic=name,
        payload=payload,
        ancestors=ancestors_of(kind),
        key=None if key is None else _check_key("key", key),
        headers=encode_headers(headers) if headers else None,
        deliver_at=None if deliver_at is None else _check_deliver_at(deliver_at),
        delay=None if delay is None else _check_delay(delay),
        dedup_key=None if dedup_key is None else _check_key("dedup_key", dedup_key),
    )


def prepare_many(events: Iterable[object], *, topic: str | None = None, limits: Limits) -> list[OutboxRow]:
    """`prepare` for many events that have nothing but a topic, in less than half the time.

    Raises InvalidEventError for the first that is refused, before any of them is published.
    """
    given = None if topic is None else _check_topic(topic)
    max_payload = limits.max_payload
    rows: list[OutboxRow] = []
    kind: Any = None
    name = ""
    ancestors: tuple[str, ...] = ()  # of the last kind: events in bulk are mostly of one
    check: Callable[[str, object], None] | None = None
    for event in events:
        if type(event) is not kind:
            kind = type(event)
            name, ancestors = given or _topic(kind), ancestors_of(kind)
            check = _checker(kind, name, limits)
        payload = encode(event, limit=max_payload)
        if check:
            check(payload, event)
        rows.append(OutboxRow(event_id=new_event_id(), topic=name, payload=payload, ancestors=ancestors))
    return rows


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


def _checker(kind: type, topic: str, limits: Limits) -> Callable[[str, object], None] | None:
    check = checker(kind)
    return check if check and limits.is_checked(split_name(topic)[0]) else None


def _topic(kind: type) -> str:
    topic = topic_of(kind)
    if topic is None:
        raise InvalidEventError(
            "topic", f"{kind.__qualname__} has none; decorate the class with @event(...) or publish with topic=..."
        )
    return topic


def _check_topic(topic: object) -> str:
    if not isinstance(topic, str):
        raise InvalidEventError("topic", f"must be a str, not {type(topic).__name__}")
    return check_topic(topic)


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
        raise InvalidEventError("deliver_at", f"it is a datetime, not {type(deliver_at)}")
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
        raise InvalidEventError("delay", f"it is a number of seconds, not {type(delay)}")
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


# ------------------------------------------------------------------------------------------------------------ inserting


def chunks(rows: Iterable[OutboxRow]) -> Iterator[list[OutboxRow]]:
    """The rows in stretches that one `insert` each takes: 2,000 rows or 8 MiB of payload."""
    chunk: list[OutboxRow] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += len(row.payload)
        if len(chunk) >= _CHUNK_ROWS or size >= _CHUNK_SIZE:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def insert(
    rows: Sequence[OutboxRow], statements: Mapping[str, Statement], *, dedup_ttl: float
) -> tuple[Statement, dict[str, object]]:
    """The statement that inserts the rows, at least one, in their order, and its values.

    `dedup_ttl`: for how long, in seconds, a dedup key bars another event. What the statement returns, if anything, is
    for `published_ids`.
    """
    if len(rows) == 1:
        (row,) = rows
        if row.dedup_key is None and row.deliver_at is None and row.delay is None:
            return statements["insert_event"], _values(row)
    values = _columns(rows)
    dedup_keys = _sparse([row.dedup_key for row in rows])
    if not dedup_keys:
        return statements["insert_events"], values
    return statements["insert_events_once"], {**values, "dedup_keys": dedup_keys, "dedup_ttl": dedup_ttl}


def _values(row: OutboxRow) -> dict[str, object]:
    return {
        "event_id": row.event_id,
        "topic": row.topic,
        "ancestors": _joined(row.ancestors),
        "key": row.key,
        "payload": row.payload,
        "headers": row.headers,
    }


def _columns(rows: Sequence[OutboxRow]) -> dict[str, object]:
    return {
        "event_ids": [row.event_id for row in rows],
        "topics": [row.topic for row in rows],
        "ancestors": _sparse([_joined(row.ancestors) for row in rows]),
        "keys": _sparse([row.key for row in rows]),
        "payloads": [row.payload for row in rows],
        "headers": _sparse([row.headers for row in rows]),
        "deliver_ats": _sparse([row.deliver_at for row in rows]),
        "delays": _sparse([row.delay for row in rows]),
    }


def _joined(ancestors: tuple[str, ...]) -> str | None:
    return " ".join(ancestors) if ancestors else None


def _sparse(column: list[Any]) -> list[Any]:
    # unnest() fills what a shorter array lacks with NULL, so a column of nothing but NULL need not be sent.
    return column if any(column) else []


def published_ids(rows: Sequence[OutboxRow], returned: Iterable[Sequence[Any]]) -> list[UUID]:
    """For each row, the id of the event that stands for it, from what the statement of `insert` has returned.

    It is the row's own, or that of an earlier event with the same dedup key.
    """
    holders: dict[str | None, UUID] = {found[0]: UUID(found[1]) for found in returned}
    return [holders.get(row.dedup_key, row.event_id) for row in rows]


def cancel(event_id: UUID | str, statements: Mapping[str, Statement]) -> tuple[Statement, dict[str, object]]:
    """The statement that cancels a scheduled event, and its values; it returns a row if the event was not yet due.

    Raises InvalidEventError for what is not a UUID.
    """
    return statements["cancel_event"], {"event_id": _check_event_id(event_id)}
