"""Queries of operators: the work of the last seconds, and calls that run now."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from pgbus.database.store import Store


class ListenerMeasure(msgspec.Struct, frozen=True):
    """Attempts of a listener that began within a window and have ended; `p95` of their durations, in seconds."""

    listener_name: str
    done: int
    failed: int
    p95: float | None


class RunningCall(msgspec.Struct, frozen=True):
    """A call of a handler, procedure or task that had run for a second or more when its worker reported last.

    `age` is in seconds, until now. `id` is that of the event, or of the call; of a batch, that of its first event.
    """

    kind: Literal["listener", "procedure", "schedule"]
    name: str
    worker: str
    id: UUID | None
    position: int | None
    topic: str | None
    key: str | None
    events: int
    attempt: int
    started_at: datetime
    age: float


class Failure(msgspec.Struct, frozen=True):
    """An attempt that failed; `duration` is in seconds."""

    position: int
    attempt: int
    outcome: Literal["retry", "dead"]
    started_at: datetime
    duration: float
    worker: str
    error: str | None


async def measure_listeners(store: Store, *, window: float) -> list[ListenerMeasure]:
    """The attempts of the last `window` seconds, by listener; none of listeners without any."""
    return [ListenerMeasure(**row) for row in await store.fetch("measure_listeners", window=window)]


async def list_running(store: Store) -> list[RunningCall]:
    """Calls that run in live workers, the longest first."""
    return [RunningCall(**row) for row in await store.fetch("list_running")]


async def list_failures(store: Store, *, listener_name: str, window: float, limit: int) -> list[Failure]:
    """The newest failed attempts of a listener of the last `window` seconds."""
    rows = await store.fetch("list_failures", listener_name=listener_name, window=window, limit=limit)
    return [Failure(**row) for row in rows]
