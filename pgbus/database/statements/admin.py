"""The few changes that an operator makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pgbus.database.store import Store

# ------------------------------------------------------------------------------------------------------------ listeners


async def lock_listener(store: Store, *, listener_name: str) -> int | None:
    """Lock a listener's row against the leader and other operators until the transaction ends; its id, if it is there.

    To change several, lock them in the order of their names.
    """
    rows = await store.fetch("lock_listener", listener_name=listener_name)
    return rows[0]["id"] if rows else None


async def set_listener_state(store: Store, *, listener_id: int, state: Literal["active", "paused"]) -> None:
    """Pause or resume a listener."""
    await store.fetch("set_listener_state", listener_id=listener_id, state=state)


async def set_listener_cursor(store: Store, *, listener_id: int, cursor: int) -> None:
    """Owe a listener the log from a position on."""
    await store.fetch("set_listener_cursor", listener_id=listener_id, cursor=cursor)


async def delete_waiting_deliveries(store: Store, *, listener_id: int) -> None:
    """Delete the deliveries of a listener that are not claimed."""
    await store.fetch("delete_waiting_deliveries", listener_id=listener_id)


async def delete_deliveries(store: Store, *, listener_id: int) -> None:
    """Delete all that is owed to a listener; a worker that holds a claim on it can no longer settle it."""
    await store.fetch("delete_deliveries", listener_id=listener_id)


async def delete_listener(store: Store, *, listener_id: int) -> None:
    """Delete a listener with its subscriptions and dead letters."""
    await store.fetch("delete_listener", listener_id=listener_id)


# --------------------------------------------------------------------------------------------------------- dead letters


async def lock_dead_letters(store: Store, ids: Sequence[int]) -> None:
    """Hold dead letters until the transaction ends, before they are retried or discarded."""
    await store.fetch("lock_dead_letters", ids=ids)


async def retry_dead_letters(store: Store, ids: Sequence[int]) -> list[int]:
    """Turn dead letters into deliveries of one event each, due at once; the ids of those that were still there."""
    return [row["id"] for row in await store.fetch("retry_dead_letters", ids=ids)]


async def discard_dead_letters(store: Store, ids: Sequence[int]) -> list[int]:
    """Remove dead letters, and say so in the history; the ids of those that were still there."""
    return [row["id"] for row in await store.fetch("discard_dead_letters", ids=ids)]
