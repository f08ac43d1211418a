"""A call of a handler that runs now: for which events, and since when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pgbus.messages import EventMessage


@dataclass(frozen=True, slots=True, eq=False)
class HandlerCall:
    """A call of a handler for an event, or for a batch of them; `started` is an instant of the engine's clock."""

    events: Sequence[EventMessage]
    attempt: int
    started: float
