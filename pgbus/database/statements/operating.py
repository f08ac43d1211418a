"""The changes that an operator makes on a connection that blocks: operations, each in the transaction that it is in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from pgbus.database.adapters import SyncExecutor
from pgbus.database.sql import load

# As many as there may be: what is done in one transaction is one batch.
_ALL = 1_000_000_000


def set_listener_states(
    executor: SyncExecutor,
    listener_names: Iterable[str],
    state: Literal["active", "paused"],
    *,
    person: str | None,
    namespace: str,
) -> None:
    """Pause or resume listeners; raises the driver's error for one that is not registered."""
    verb = "pause" if state == "paused" else "resume"
    for name in sorted(listener_names):  # in one order, so that two people do not lock each other out
        _operate(executor, verb, {"listener": name}, person=person, namespace=namespace)


def retry_dead_letters(executor: SyncExecutor, ids: Sequence[int], *, person: str | None, namespace: str) -> int:
    """Turn dead letters into deliveries of one event each, due at once; how many were still there."""
    return _operate(executor, "retry", {"ids": ids}, person=person, namespace=namespace)


def discard_dead_letters(executor: SyncExecutor, ids: Sequence[int], *, person: str | None, namespace: str) -> int:
    """Remove dead letters, and say so in the history; how many were still there."""
    return _operate(executor, "discard", {"ids": ids}, person=person, namespace=namespace)


def _operate(
    executor: SyncExecutor, verb: str, filter_: Mapping[str, object], *, person: str | None, namespace: str
) -> int:
    """Record an operation and carry it out; how many it has touched."""
    statements = load(namespace)
    text = msgspec.json.encode(filter_).decode()
    values = {"verb": verb, "filter": text, "reason": None, "person": person}
    number = int(executor.fetch(statements["begin_operation"], values)[0][0])
    done = executor.fetch(statements["continue_operation"], {"operation_id": number, "batch": _ALL})
    return int(done[0][9])
