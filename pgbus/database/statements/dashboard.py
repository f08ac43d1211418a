"""Queries of the dashboard: rates, and the flow from services to listeners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pgbus.database.store import Store


@dataclass(frozen=True, slots=True)
class Rate:
    """A quarter of a minute: events handled, attempts failed, and quantiles 0.5, 0.95, 0.99 of durations in seconds."""

    beginning: datetime
    done: int
    failed: int
    quantiles: Sequence[float] | None


@dataclass(frozen=True, slots=True)
class Flow:
    """A topic and one listener that hears it, None if nobody does; `events` of the last 10,000 have this topic."""

    topic: str
    events: int
    services: Sequence[str]
    listener_name: str | None
    listener_service: str | None


async def read_rates(store: Store, *, listener_name: str | None = None) -> list[Rate]:
    """The last 15 minutes, of all listeners or of one, oldest first."""
    return [Rate(**row) for row in await store.fetch("read_rates", listener_name=listener_name)]


async def read_flow(store: Store) -> list[Flow]:
    """Every topic that is declared or was seen lately, with each listener that hears it."""
    return [Flow(**row) for row in await store.fetch("read_flow")]
