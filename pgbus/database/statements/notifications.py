"""Sends notifications: hints that only wake, sent when their transaction commits."""

from __future__ import annotations

from pgbus.database.store import Store


async def notify(store: Store, *, channel: str, payload: str) -> None:
    """Send a notification when the transaction commits."""
    await store.fetch("notify", channel=channel, payload=payload)


async def notify_workers(store: Store, payload: str) -> None:
    """Wake every worker: the payload is ids of listeners, joined by commas, or one word."""
    await notify(store, channel=store.work_channel, payload=payload)
