"""Events that were checked, in the forms that one INSERT takes: one event, events of any kind, and events of one class.

Each form has the statement that inserts it, with its values, and tells the ids of its events from what that returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

import msgspec

from pgbus.database.statements import outbox
from pgbus.database.statements.bound import Bound
from pgbus.database.statements.outbox import EventColumns, Statements
from pgbus.messages import EventMessage

# Rows, and characters of their payloads, at which an INSERT is full. A longer one costs hardly less a row, and a driver
# holds all that it sends in memory once more.
CHUNK_ROWS = 2_000
CHUNK_SIZE = 8_388_608


class OutboxRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event that was checked. `payload` and `headers` are JSON text.

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

    def message(self, event_id: UUID | None = None) -> EventMessage:
        """The event as its publisher knows it: without the instants that the database will give it.

        `event_id` is that of the event that stands for it, where it is not its own.
        """
        return EventMessage(
            topic=self.topic,
            raw=self.payload,
            event_id=event_id or self.event_id,
            key=self.key,
            raw_headers=self.headers,
            ancestors=self.ancestors or None,
            deliver_at=self.deliver_at,
        )

    def insert(self, statements: Statements, *, service: str, dedup_ttl: float) -> Bound:
        """The statement that inserts it, and its values.

        `service` publishes it; the database's user does where it has no name. `dedup_ttl` is in seconds.
        """
        # The statement of a single event, which most programs run, takes none of these.
        if not (self.dedup_key is None and self.deliver_at is None and self.delay is None):
            return Rows((self,)).insert(statements, service=service, dedup_ttl=dedup_ttl)
        return outbox.insert_event(
            statements,
            event_id=self.event_id,
            topic=self.topic,
            ancestors=joined(self.ancestors),
            key=self.key,
            payload=self.payload,
            headers=self.headers,
            published_by=service or None,
        )

    def ids(self, returned: Iterable[Sequence[Any]]) -> list[UUID]:
        """For each event the id of the one that stands for it, from what the statement has returned."""
        return _ids((self,), returned) if returned else [self.event_id]

    def rows(self) -> Sequence[OutboxRow]:
        """The events one by one."""
        return (self,)

    @property
    def may_repeat(self) -> bool:
        """Whether inserting it twice publishes it once."""
        return self.dedup_key is not None


class Rows(msgspec.Struct, frozen=True):
    """Events of any kind, at least one."""

    given: Sequence[OutboxRow]

    def insert(self, statements: Statements, *, service: str, dedup_ttl: float) -> Bound:
        """The statement that inserts them in their order, and its values; see OutboxRow.

        `dedup_ttl`: for how long, in seconds, a dedup key bars another event.
        """
        columns = self._columns(service)
        dedup_keys = _sparse([row.dedup_key for row in self.given])
        if not dedup_keys:
            return outbox.insert_events(statements, columns)
        return outbox.insert_events_once(statements, columns, dedup_keys=dedup_keys, dedup_ttl=dedup_ttl)

    def _columns(self, service: str) -> EventColumns:
        rows = self.given
        return EventColumns(
            event_ids=[row.event_id for row in rows],
            topics=[row.topic for row in rows],
            ancestors=_sparse([joined(row.ancestors) for row in rows]),
            keys=_sparse([row.key for row in rows]),
            payloads=[row.payload for row in rows],
            headers=_sparse([row.headers for row in rows]),
            deliver_ats=_sparse([row.deliver_at for row in rows]),
            delays=_sparse([row.delay for row in rows]),
            published_by=service or None,
        )

    def ids(self, returned: Iterable[Sequence[Any]]) -> list[UUID]:
        """Return the ids; see OutboxRow."""
        return _ids(self.given, returned)

    def rows(self) -> Sequence[OutboxRow]:
        """Return the rows; see OutboxRow."""
        return self.given

    @property
    def may_repeat(self) -> bool:
        """Whether a repeat is harmless; see OutboxRow."""
        return all(row.may_repeat for row in self.given)


class Lines(msgspec.Struct, frozen=True):
    """Events of one class, with the same headers and no more: at least one, a payload on each line of `payloads`."""

    event_ids: list[UUID]
    topic: str
    payloads: str
    ancestors: tuple[str, ...] = ()
    headers: str | None = None

    def insert(self, statements: Statements, *, service: str, dedup_ttl: float) -> Bound:  # noqa: ARG002 - as Rows's
        """Return the INSERT and its values; see Rows."""
        return outbox.insert_lines(
            statements,
            event_ids=self.event_ids,
            topic=self.topic,
            ancestors=joined(self.ancestors),
            payloads=self.payloads,
            headers=self.headers,
            published_by=service or None,
        )

    def ids(self, returned: Iterable[Sequence[Any]]) -> list[UUID]:  # noqa: ARG002 - nothing is returned
        """Return the ids; see OutboxRow."""
        return self.event_ids

    def rows(self) -> Sequence[OutboxRow]:
        """Return the rows; see OutboxRow."""
        return [
            OutboxRow(
                event_id=event_id, topic=self.topic, payload=payload, ancestors=self.ancestors, headers=self.headers
            )
            for event_id, payload in zip(self.event_ids, self.payloads.split("\n"), strict=True)
        ]

    @property
    def may_repeat(self) -> bool:
        """Whether a repeat is harmless; see OutboxRow."""
        return False


# What one INSERT takes.
Part: TypeAlias = OutboxRow | Rows | Lines


def in_parts(rows: Sequence[OutboxRow]) -> Iterator[OutboxRow | Rows]:
    """The rows in parts of at most 2,000 rows or 8 MiB of payload."""
    chunk: list[OutboxRow] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += len(row.payload)
        if len(chunk) >= CHUNK_ROWS or size >= CHUNK_SIZE:
            yield _part(chunk)
            chunk, size = [], 0
    if chunk:
        yield _part(chunk)


def _part(rows: list[OutboxRow]) -> OutboxRow | Rows:
    return rows[0] if len(rows) == 1 else Rows(rows)


def joined(ancestors: tuple[str, ...]) -> str | None:
    """Topics as the statements take them; None for none."""
    return " ".join(ancestors) if ancestors else None


def _sparse(column: list[Any]) -> list[Any]:
    # unnest() fills what a shorter array lacks with NULL, so a column of nothing but NULL need not be sent.
    return column if any(column) else []


def _ids(rows: Sequence[OutboxRow], returned: Iterable[Sequence[Any]]) -> list[UUID]:
    """For each row its own id, or that of an earlier event with the same dedup key."""
    # The statement returns a row for each dedup key, and none for rows without one. The ids are strings, as the
    # connection may be a user's, whose codecs are unknown.
    holders: dict[str | None, UUID] = {found[0]: UUID(found[1]) for found in returned}
    return [holders.get(row.dedup_key, row.event_id) for row in rows]
