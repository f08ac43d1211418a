"""Listeners and workers: who is registered, and who is alive."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pgbus.database.store import Store
from pgbus.topics import is_wildcard, pattern_regex


@dataclass(frozen=True, slots=True)
class Registered:
    """A listener's row, and its options until now as JSON; None for a new one."""

    id: int
    listener_name: str
    is_new: bool
    old_options: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A listener that is to be registered: with its options as JSON, and where it begins if it is new.

    `start_position` None: with the events that are logged from now on.
    """

    listener_name: str
    lanes: int | None
    options: str
    start_position: int | None


@dataclass(frozen=True, slots=True)
class SubscriptionChanges:
    """Patterns that were added to a listener's subscriptions, and removed from them."""

    added: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """A worker that is alive, as people find it."""

    name: str
    host: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A declaration of a listener, with one of the other live workers that run it, if any, and that worker's `home`.

    `options` is JSON. `is_recent`: it was seen within the time that was asked for.
    """

    listener_id: int
    service: str
    home: str | None
    patterns: tuple[str, ...]
    options: str
    first_seen_at: datetime
    is_recent: bool
    worker: LiveWorker | None


# ------------------------------------------------------------------------------------------------------------ listeners


async def register_listeners(store: Store, registrations: Sequence[Registration], *, service: str) -> list[Registered]:
    """Make listeners known, and lock their rows; the result is in no order."""
    rows = await store.fetch(
        "register_listeners",
        listener_names=[one.listener_name for one in registrations],
        lanes=[one.lanes for one in registrations],
        options=[one.options for one in registrations],
        start_positions=[one.start_position for one in registrations],
        service=service,
    )
    return [Registered(row["id"], row["listener_name"], row["is_new"], row["old_options"]) for row in rows]


async def set_listener_options(store: Store, registrations: Mapping[int, Registration], *, service: str) -> None:
    """Make these the options of listeners, by their ids, and this the service that runs them."""
    await store.fetch(
        "set_listener_options",
        listener_ids=list(registrations),
        lanes=[one.lanes for one in registrations.values()],
        options=[one.options for one in registrations.values()],
        service=service,
    )


async def replace_subscriptions(store: Store, patterns: Mapping[int, Sequence[str]]) -> dict[int, SubscriptionChanges]:
    """Make these patterns the subscriptions of listeners, by their ids; what that has changed."""
    each = [(listener_id, pattern) for listener_id, own in patterns.items() for pattern in own]
    rows = await store.fetch(
        "replace_subscriptions",
        listener_ids=list(patterns),
        pattern_listener_ids=[listener_id for listener_id, _ in each],
        patterns=[pattern for _, pattern in each],
        regexes=[pattern_regex(pattern) if is_wildcard(pattern) else None for _, pattern in each],
    )
    changes: dict[tuple[int, str], list[str]] = {}
    for row in rows:
        changes.setdefault((row["listener_id"], row["change"]), []).append(row["pattern"])
    return {
        id_: SubscriptionChanges(tuple(changes.get((id_, "added"), ())), tuple(changes.get((id_, "removed"), ())))
        for id_ in patterns
    }


async def find_patterns(store: Store, *, listener_id: int) -> list[str]:
    """The patterns that a listener is subscribed to."""
    return [row["pattern"] for row in await store.fetch("find_patterns", listener_id=listener_id)]


async def find_declarations(store: Store, listener_ids: Sequence[int], *, worker_id: int, ttl: float) -> list[Declared]:
    """The declarations of listeners; `ttl` seconds ago is recent."""
    rows = await store.fetch("find_declarations", listener_ids=list(listener_ids), worker_id=worker_id, ttl=ttl)
    return [
        Declared(
            listener_id=row["listener_id"],
            service=row["service"],
            home=row["home"],
            patterns=tuple(row["patterns"]),
            options=row["options"],
            first_seen_at=row["first_seen_at"],
            is_recent=row["is_recent"],
            worker=LiveWorker(name=row["worker"], host=row["host"], pid=row["pid"]) if row["worker_id"] else None,
        )
        for row in rows
    ]


async def note_declarations(
    store: Store, declarations: Mapping[int, tuple[Sequence[str], str]], *, service: str, worker_id: int
) -> None:
    """Remember what a worker declares of listeners, by their ids: patterns, and options as JSON.

    The transaction has locked their rows by registering them.
    """
    await store.fetch(
        "note_declarations",
        listener_ids=list(declarations),
        patterns=[_array_text(patterns) for patterns, _ in declarations.values()],
        options=[options for _, options in declarations.values()],
        service=service,
        worker_id=worker_id,
    )


def _array_text(patterns: Sequence[str]) -> str:
    """As PostgreSQL writes an array; a pattern has no quote or backslash."""
    return "{" + ",".join(f'"{pattern}"' for pattern in patterns) + "}"


# -------------------------------------------------------------------------------------------------------------- workers


async def pause_copy(store: Store) -> int | None:
    """Pause all listeners and schedules if this database is a copy in which no worker ran yet; the operation's id."""
    number: int | None = (await store.fetch_one("pause_copy"))["operation_id"]
    return number


async def register_worker(
    store: Store,
    *,
    name: str,
    service: str,
    home: str | None,
    host: str,
    pid: int,
    version: str,
    listeners: Sequence[str],
) -> int:
    """Insert the row of a worker; its id."""
    row = await store.fetch_one(
        "register_worker",
        name=name,
        service=service,
        home=home,
        host=host,
        pid=pid,
        version=version,
        listeners=list(listeners),
    )
    worker_id: int = row["id"]
    return worker_id


async def lock_worker(store: Store, *, worker_id: int) -> bool:
    """Take the lock that shows that a worker is alive, until this session ends; false when another session has it."""
    locked: bool = (await store.fetch_one("lock_worker", namespace=store.namespace, worker_id=worker_id))["locked"]
    return locked


async def touch_worker(
    store: Store,
    *,
    worker_id: int,
    listener_ids: Iterable[int],
    listeners: Iterable[str],
    failures: Mapping[str, str],
    running: str,
) -> int:
    """Note that a worker and its listeners were seen, why parts of it failed, and what runs in it (a JSON array).

    Returns how many other workers live.
    """
    row = await store.fetch_one(
        "touch_worker",
        worker_id=worker_id,
        listener_ids=list(listener_ids),
        listeners=list(listeners),
        failed_parts=list(failures),
        failures=list(failures.values()),
        running=running,
    )
    others: int = row["others"]
    return others


async def remove_worker(store: Store, *, worker_id: int) -> None:
    """Delete the row of a worker that stopped."""
    await store.fetch("remove_worker", worker_id=worker_id)
