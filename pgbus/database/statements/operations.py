"""Operations: every change that a person makes, previewed, recorded and carried out in batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias, TypedDict
from uuid import UUID

import msgspec

from pgbus.database.store import Store

Verb: TypeAlias = Literal[
    "retry",
    "retry_now",
    "give_up",
    "discard",
    "replay",
    "reset",
    "pause",
    "resume",
    "remove",
    "pause_schedule",
    "resume_schedule",
    "run_schedule",
    "remove_schedule",
    "republish",
    "adopt",
    "pause_copy",  # recorded by a worker; nobody can request it
]
State: TypeAlias = Literal["running", "done", "cancelled"]
Filter: TypeAlias = Mapping[str, object]


class Why(TypedDict, total=False):
    """The options of every change that a person makes."""

    reason: str | None
    """Why; at most 1000 characters."""
    person: str | None
    """Who, besides the database's user; at most 255 characters."""


@dataclass(frozen=True, slots=True)
class OperationStep:
    """A continuation or cancellation of an operation: who did it, when and why."""

    step: Literal["continue", "cancel"]
    reason: str | None
    person: str | None
    requested_by: str
    requested_at: datetime


@dataclass(frozen=True, slots=True)
class Operation:
    """A change that a person made, or is making.

    `requested_by` is the database's user, `person` who that was, where given. `matched` is the number of events,
    listeners or schedules when it was requested, and `touched` that of those it has changed. `result` tells more, such
    as what a reset has dropped. `steps` are who continued or cancelled it, in the order of time.
    """

    id: int
    verb: Verb
    filter: dict[str, Any]
    reason: str | None
    person: str | None
    requested_by: str
    requested_at: datetime
    state: State
    matched: int
    touched: int
    result: dict[str, Any]
    finished_at: datetime | None
    steps: list[OperationStep]


@dataclass(frozen=True, slots=True)
class OperationItem:
    """An event at one listener that an operation has touched, with the columns of its dead letter, if it was one."""

    letter_id: int | None
    listener_name: str
    position: int
    event_id: UUID | None
    topic: str | None
    attempts: int
    error: str | None
    fingerprint: str | None
    traceback: str | None
    worker: str | None
    dead_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationFilter:
    """Which operations; None does not restrict.

    `who` is a person or the database's user, `subject` a listener or schedule. `since` (inclusive) and `until`
    (exclusive) are compared with the instant at which it was requested, `before` (exclusive) with its id.
    """

    operation_id: int | None = None
    before: int | None = None
    verb: str | None = None
    who: str | None = None
    subject: str | None = None
    state: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """The number of what an operation would apply to, and a few of them: the newest, or the first of a stretch."""

    matched: int
    sample: list[dict[str, Any]]


async def preview_operation(store: Store, verb: Verb, filter_: Filter, *, samples: int) -> Preview:
    """Count what an operation would apply to, and return a few of them; nothing is changed."""
    row = await store.fetch_one("preview_operation", verb=verb, filter=_text(filter_), samples=samples)
    return Preview(matched=row["matched"], sample=msgspec.json.decode(row["sample"]))


async def begin_operation(store: Store, verb: Verb, filter_: Filter, why: Why) -> int:
    """Record an operation, which `continue_operation` carries out; its id."""
    row = await store.fetch_one("begin_operation", verb=verb, filter=_text(filter_), **_values(why))
    number: int = row["id"]
    return number


async def continue_operation(store: Store, operation_id: int, *, batch: int) -> Operation:
    """Carry out the next batch."""
    return _operation(await store.fetch_one("continue_operation", operation_id=operation_id, batch=batch))


async def resume_operation(store: Store, operation_id: int, why: Why) -> bool:
    """Record that somebody continues an operation; false if it has ended already."""
    row = await store.fetch_one("resume_operation", operation_id=operation_id, **_values(why))
    resumed: bool = row["resumed"]
    return resumed


async def cancel_operation(store: Store, operation_id: int, why: Why) -> bool:
    """Stop a running operation; false if it has ended already."""
    row = await store.fetch_one("cancel_operation", operation_id=operation_id, **_values(why))
    cancelled: bool = row["cancelled"]
    return cancelled


async def list_operations(store: Store, wanted: OperationFilter, *, limit: int | None) -> list[Operation]:
    """The newest operations that a filter accepts; all of them without a limit."""
    return [_operation(row) for row in await store.fetch("list_operations", **asdict(wanted), limit=limit)]


async def list_operation_items(store: Store, operation_id: int, *, limit: int | None) -> list[OperationItem]:
    """Return what an operation has touched, in the order of the log."""
    rows = await store.fetch("list_operation_items", operation_id=operation_id, limit=limit)
    return [OperationItem(**row) for row in rows]


def _operation(row: Any) -> Operation:
    texts = {name: msgspec.json.decode(row[name]) for name in ("filter", "result")}
    steps = [msgspec.json.decode(step, type=OperationStep) for step in row["steps"]]
    return Operation(**{**row, **texts, "steps": steps})


def _values(why: Why) -> dict[str, str | None]:
    return {"reason": why.get("reason"), "person": why.get("person")}


def _text(filter_: Filter) -> str:
    return msgspec.json.encode(filter_).decode()
