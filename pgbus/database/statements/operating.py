"""The changes that an operator makes, on a connection that blocks: each in the transaction that it is in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from pgbus.database import channels
from pgbus.database.adapters import SyncExecutor
from pgbus.database.sql import load


def set_listener_states(
    executor: SyncExecutor, listener_names: Iterable[str], state: Literal["active", "paused"], *, namespace: str
) -> None:
    """Pause or resume listeners; one that is not there is left out."""
    statements = load(namespace)
    for name in sorted(listener_names):  # in one order, so that two people do not lock each other out
        for (listener_id,) in executor.fetch(statements["lock_listener"], {"listener_name": name}):
            executor.fetch(statements["set_listener_state"], {"listener_id": listener_id, "state": state})
    _notify_workers(executor, namespace=namespace)


def retry_dead_letters(executor: SyncExecutor, ids: Sequence[int], *, namespace: str) -> int:
    """Turn dead letters into deliveries of one event each, due at once; how many were still there."""
    return _settle(executor, "retry_dead_letters", ids, namespace=namespace)


def discard_dead_letters(executor: SyncExecutor, ids: Sequence[int], *, namespace: str) -> int:
    """Remove dead letters, and say so in the history; how many were still there."""
    return _settle(executor, "discard_dead_letters", ids, namespace=namespace)


def _settle(executor: SyncExecutor, statement: str, ids: Sequence[int], *, namespace: str) -> int:
    statements = load(namespace)
    executor.fetch(statements["lock_dead_letters"], {"ids": ids})
    settled = len(executor.fetch(statements[statement], {"ids": ids}))
    _notify_workers(executor, namespace=namespace)
    return settled


def _notify_workers(executor: SyncExecutor, *, namespace: str) -> None:
    executor.fetch(load(namespace)["notify"], {"channel": channels.work(namespace), "payload": "reload"})
