"""Queries of the dashboard: what listeners did lately, the flow from services to listeners, and what caused what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from pgbus.database.store import Store

QUARTER = 15
"""Seconds of an interval."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A quarter of a minute of one listener: events handled, events at which an attempt failed, the quantiles 0.5, 0.95
    and 0.99 of the durations, and how old the newest event was when it began. Durations are in seconds.
    """

    beginning: datetime
    listener_name: str
    done: int
    failed: int
    quantiles: Sequence[float] | None
    lag: float | None


@dataclass(frozen=True, slots=True)
class Flow:
    """A topic and one listener that hears it, None if nobody does; `events` of the last 10,000 have this topic."""

    topic: str
    events: int
    rate: float | None
    services: Sequence[str]
    listener_name: str | None
    listener_service: str | None


async def read_intervals(store: Store, *, since: datetime | None) -> tuple[datetime, list[Interval]]:
    """The interval that is not over yet, and what each listener did in those since an instant; None: 15 minutes ago."""
    rows = await store.fetch("read_intervals", since=since)
    names = [field.name for field in fields(Interval)]
    found = [Interval(**{name: row[name] for name in names}) for row in rows if row["beginning"] is not None]
    return rows[0]["current"], found


async def read_flow(store: Store) -> list[Flow]:
    """Every topic that is declared or was seen lately, with each listener that hears it."""
    return [Flow(**row) for row in await store.fetch("read_flow")]


@dataclass(frozen=True, slots=True)
class TreeAttempt:
    """One attempt of a listener at an event of a tree; `duration` is in seconds."""

    listener_name: str
    service: str
    attempt: int
    outcome: str
    started_at: datetime
    duration: float


@dataclass(frozen=True, slots=True)
class TreeNode:
    """An event, call or run of a tree, `depth` steps below its root.

    `service` published or called it. A call also has the service that answered it, when it began and when it was
    answered.
    """

    depth: int
    kind: Literal["event", "call", "run"]
    id: UUID
    causation_id: UUID | None
    name: str
    at: datetime
    state: str | None
    service: str
    served_by: str | None
    started_at: datetime | None
    responded_at: datetime | None
    attempts: tuple[TreeAttempt, ...]

    @property
    def outcomes(self) -> dict[str, str]:
        """How the last attempt of each listener ended."""
        return {one.listener_name: one.outcome for one in self.attempts}


@dataclass(frozen=True, slots=True)
class Declared:
    """The options that a version of a service's code declares for a listener, and how many workers run it or did."""

    service: str
    options: dict[str, object]
    workers: int
    last_seen_at: datetime


async def read_tree(store: Store, *, member_id: UUID, limit: int) -> list[TreeNode]:
    """At most `limit` rows of the tree that an event, call or run is part of, each below its cause."""
    return [
        TreeNode(**{**row, "attempts": msgspec.json.decode(row["attempts"], type=tuple[TreeAttempt, ...])})
        for row in await store.fetch("read_tree", member_id=member_id, limit=limit)
    ]


async def find_window(store: Store, *, before: int | None, events: int) -> tuple[int, datetime] | None:
    """Where the `events` events before a position begin, and since when they are in the log; None: at its beginning."""
    rows = await store.fetch("find_window", before=before, events=events)
    return (rows[0]["position"], rows[0]["logged_at"]) if rows else None


async def read_options(store: Store, listener_name: str) -> list[Declared]:
    """The options that the code of each service declares for a listener, the newest first."""
    return [
        Declared(**{**row, "options": msgspec.json.decode(row["options"])})
        for row in await store.fetch("read_options", listener_name=listener_name)
    ]
