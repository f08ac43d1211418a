"""The inbox, in another database than the bus's: statements with their values, for whatever connection that has."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from pgbus.database.sql import load
from pgbus.database.statements.bound import Bound


def create_inbox(*, namespace: str) -> list[str]:
    """The SQL that creates the inbox; what is there already stays."""
    statements = load(namespace)
    return [statements[name].text for name in ("create_inbox_namespace", "create_inbox", "create_inbox_index")]


def take_events(*, namespace: str, listener_name: str, event_ids: Sequence[UUID]) -> Bound:
    """Write down that a listener takes these events; a row of one column with the id of each that is new to it."""
    return Bound(load(namespace)["take_events"], {"listener_name": listener_name, "event_ids": event_ids})


def forget_taken_events(*, namespace: str, age: float) -> Bound:
    """Delete what was taken more than `age` seconds ago; one row, with the number of events."""
    return Bound(load(namespace)["forget_taken_events"], {"age": age})
