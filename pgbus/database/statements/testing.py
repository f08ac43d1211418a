"""For tests of those who use pgbus: what became of events, and what an open transaction has published."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

import msgspec

from pgbus.database.adapters import AsyncExecutor
from pgbus.database.sql import load
from pgbus.database.statements.rows import event_of
from pgbus.database.store import Store
from pgbus.messages import EventMessage


class Unsettled(msgspec.Struct, frozen=True):
    """How many events and deliveries are due and not settled, at an instant."""

    unsettled: int
    looked_at: datetime


class FoundAttempt(msgspec.Struct, frozen=True):
    """An attempt of the history, with its event."""

    listener_name: str
    event: EventMessage
    attempt: int
    outcome: Literal["done", "retry", "dead", "discarded", "skipped"]
    error: str | None


async def count_unsettled(store: Store, *, listener_names: Sequence[str]) -> Unsettled:
    """How much is due, and is yet to be settled by one of these listeners."""
    return Unsettled(**await store.fetch_one("count_unsettled", listener_names=listener_names))


async def stop_leading(store: Store) -> None:
    """Let others lead: this session did, so that nothing entered the log."""
    await store.fetch("stop_leading", namespace=store.namespace)


async def find_attempts(store: Store, *, since: datetime, listener_names: Sequence[str]) -> list[FoundAttempt]:
    """The attempts of these listeners that began after an instant."""
    return [
        FoundAttempt(
            listener_name=row["listener_name"],
            event=event_of(row),
            attempt=row["attempt"],
            outcome=row["outcome"],
            error=row["error"],
        )
        for row in await store.fetch("find_attempts", since=since, listener_names=listener_names)
    ]


# ------------------------------------------------------------------------------- on a user's connection: all is text


async def find_transaction(executor: AsyncExecutor, *, namespace: str) -> str:
    """The id of the transaction: another one for each statement where none was begun."""
    [[xid]] = await executor.fetch(load(namespace)["find_transaction"], {})
    return str(xid)


async def take_own_events(executor: AsyncExecutor, *, namespace: str) -> list[EventMessage]:
    """Take out of the outbox what this transaction has published, and nobody else can see, and is due."""
    rows = await executor.fetch(load(namespace)["take_own_events"], {})
    return [_own_event(*row) for row in rows]


def _own_event(
    id_: str,
    event_id: str,
    topic: str,
    ancestors: str | None,
    key: str | None,
    payload: str,
    headers: str,
    published_at: str,
    deliver_at: str | None,
) -> EventMessage:
    return EventMessage(
        topic=topic,
        raw=payload,
        event_id=UUID(event_id),
        key=key,
        raw_headers=headers,
        ancestors=ancestors.split(" ") if ancestors else None,
        published_at=_instant(published_at),
        deliver_at=_instant(deliver_at) if deliver_at else None,
        position=int(id_),
    )


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
