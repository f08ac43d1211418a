"""Rows: many values into the column arrays that a statement unnests, and rows of events into `EventMessage`s."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from pgbus.messages import EventMessage


def columns(rows: Sequence[object], /, **attributes: str) -> dict[str, list[Any]]:
    """One array for each parameter of a statement: `columns(rows, call_ids="call_id", timeouts="timeout")`.

    The key is the parameter's name; the value is the attribute that every row has.
    """
    return {parameter: list(map(attrgetter(attribute), rows)) for parameter, attribute in attributes.items()}


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
