"""What a test learns of each event that was delivered to its listeners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pgbus.messages import EventMessage

# "blocked": not tried, as an event of its key is a dead letter that blocks it. The last two are an operator's doing.
AttemptOutcome: TypeAlias = Literal["done", "retry", "dead", "blocked", "discarded", "skipped"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One event at one listener: `attempt` is 1 for the first, `error` says what the handler raised."""

    listener_name: str
    event: EventMessage
    attempt: int
    outcome: AttemptOutcome
    error: str | None = None


def message_of(columns: Sequence[Any]) -> EventMessage:
    """An event from its columns: position, event_id, topic, ancestors, key, payload, headers and two instants."""
    position, event_id, topic, ancestors, key, payload, headers, published_at, deliver_at = columns
    return EventMessage(
        topic=topic,
        raw=payload,
        event_id=event_id,
        key=key,
        raw_headers=headers,
        ancestors=ancestors,
        published_at=published_at,
        deliver_at=deliver_at,
        position=position,
    )
