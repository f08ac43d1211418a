"""The attempts that `deliver_now` returns to a test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from pgbus.messages import EventMessage

# "blocked": not tried, as an event of its key is a dead letter that blocks it. The last two are an operator's doing.
AttemptOutcome: TypeAlias = Literal["done", "retry", "dead", "blocked", "discarded", "skipped"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of one listener at an event: `attempt` is 1 for the first, `error` is the handler's error or None."""

    listener_name: str
    event: EventMessage
    attempt: int
    outcome: AttemptOutcome
    error: str | None = None
