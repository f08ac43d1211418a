"""Rows of events into `EventMessage`s."""

from __future__ import annotations

from typing import Any

from pgbus.messages import EventMessage


def event_of(row: Any) -> EventMessage:
    """The event of a row that has its columns, with payload and headers as JSON strings."""
    return EventMessage(
        topic=row["topic"],
        raw=row["payload"],
        event_id=row["event_id"],
        key=row["key"],
        raw_headers=row["headers"],
        ancestors=row["ancestors"],
        published_at=row["published_at"],
        deliver_at=row["deliver_at"],
        position=row["position"],
    )
