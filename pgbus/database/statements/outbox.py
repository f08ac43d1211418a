"""The statements of publishers, with their values, for whatever connection they publish on.

`statements` are those of the bus's namespace. Ancestors are topics with spaces between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

import msgspec

from pgbus.database.sql import Statement
from pgbus.database.statements.bound import Bound

Statements: TypeAlias = Mapping[str, Statement]


class EventColumns(msgspec.Struct, frozen=True, kw_only=True):
    """Events in the order of the arrays. An array may be shorter than `event_ids`: what it lacks is NULL.

    `delays` are in seconds from the INSERT on, by the database's clock. `published_by` is the service that publishes
    them; None: the database's user.
    """

    event_ids: Sequence[UUID]
    topics: Sequence[str]
    ancestors: Sequence[str | None]
    keys: Sequence[str | None]
    payloads: Sequence[str]
    headers: Sequence[str | None]
    deliver_ats: Sequence[datetime | None]
    delays: Sequence[float | None]
    published_by: str | None

    def values(self) -> dict[str, object]:
        """The parameters of the statements."""
        return {
            "event_ids": self.event_ids,
            "topics": self.topics,
            "ancestors": self.ancestors,
            "keys": self.keys,
            "payloads": self.payloads,
            "headers": self.headers,
            "deliver_ats": self.deliver_ats,
            "delays": self.delays,
            "published_by": self.published_by,
        }


def insert_event(
    statements: Statements,
    *,
    event_id: UUID | str,
    topic: str,
    ancestors: str | None,
    key: str | None,
    payload: str,
    headers: str | None,
    published_by: str | None,
) -> Bound:
    """Insert one event that is due at once."""
    return Bound(
        statements["insert_event"],
        {
            "event_id": event_id,
            "topic": topic,
            "ancestors": ancestors,
            "key": key,
            "payload": payload,
            "headers": headers,
            "published_by": published_by,
        },
    )


def insert_lines(
    statements: Statements,
    *,
    event_ids: Sequence[UUID],
    topic: str,
    ancestors: str | None,
    payloads: str,
    headers: str | None,
    published_by: str | None,
) -> Bound:
    """Insert events of one topic and with the same headers that are due at once, each payload on a line of its own."""
    return Bound(
        statements["insert_lines"],
        {
            "event_ids": " ".join(map(str, event_ids)),
            "topic": topic,
            "ancestors": ancestors,
            "payloads": payloads,
            "headers": headers,
            "published_by": published_by,
        },
    )


def insert_events(statements: Statements, columns: EventColumns) -> Bound:
    """Insert the events of these columns, all due at once."""
    return Bound(statements["insert_events"], columns.values())


def insert_events_once(
    statements: Statements, columns: EventColumns, *, dedup_keys: Sequence[str | None], dedup_ttl: float
) -> Bound:
    """Insert events, but of those with one dedup key only the first; rows of a key and the id of its event.

    A key bars another event for `dedup_ttl` seconds.
    """
    return Bound(
        statements["insert_events_once"], {**columns.values(), "dedup_keys": dedup_keys, "dedup_ttl": dedup_ttl}
    )


def cancel_event(statements: Statements, *, event_id: UUID) -> Bound:
    """Take a scheduled event out of the outbox before it is due; returns a row if it was there."""
    return Bound(statements["cancel_event"], {"event_id": event_id})
