"""A call of a handler that runs now: for which events, and since when."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pgbus.messages import EventMessage


class HandlerCall(msgspec.Struct, frozen=True, eq=False):
    """A call of a handler for an event, or for a batch of them; `started` is an instant of the engine's clock."""

    events: Sequence[EventMessage]
    attempt: int
    started: float
