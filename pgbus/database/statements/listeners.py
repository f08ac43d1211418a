"""Listeners and workers: who is registered, and who is alive."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pgbus.database.statements.inspection import find_position_at
from pgbus.database.store import Store
from pgbus.topics import is_wildcard, pattern_regex


@dataclass(frozen=True, slots=True)
class Registered:
    """A listener's row, and its options until now as JSON; None for a new one."""

    id: int
    is_new: bool
    old_options: str | None


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

    service: str
    home: str | None
    patterns: tuple[str, ...]
    options: str
    first_seen_at: datetime
    is_recent: bool
    worker: LiveWorker | None


# ------------------------------------------------------------------------------------------------------------ listeners


async def register_listener(
    store: Store,
    *,
    listener_name: str,
    lanes: int | None,
    options: str,
    service: str,
    start_position: int | None,
    start_at: datetime | None,
) -> Registered:
    """Make a listener known, and lock its row. A new one begins at `start_position`, or at the instant `start_at`."""
    if start_at is not None:
        # A new listener is not live there, even at the log's end: an event that the leader is sequencing at this
        # moment is not missed.
        start_position = await find_position_at(store, instant=start_at)
    row = await store.fetch_one(
        "register_listener",
        listener_name=listener_name,
        lanes=lanes,
        options=options,
        service=service,
        start_position=start_position,
    )
    return Registered(id=row["id"], is_new=row["is_new"], old_options=row["old_options"])


async def set_listener_options(
    store: Store, *, listener_id: int, lanes: int | None, options: str, service: str
) -> None:
    """Make these the options of a listener, as JSON, and this the service that runs it."""
    await store.fetch("set_listener_options", listener_id=listener_id, lanes=lanes, options=options, service=service)


async def replace_subscriptions(store: Store, *, listener_id: int, patterns: Sequence[str]) -> SubscriptionChanges:
    """Make a listener's subscriptions these patterns."""
    regexes = [pattern_regex(pattern) if is_wildcard(pattern) else None for pattern in patterns]
    rows = await store.fetch("replace_subscriptions", listener_id=listener_id, patterns=list(patterns), regexes=regexes)
    return SubscriptionChanges(
        added=tuple(row["pattern"] for row in rows if row["change"] == "added"),
        removed=tuple(row["pattern"] for row in rows if row["change"] == "removed"),
    )


async def find_patterns(store: Store, *, listener_id: int) -> list[str]:
    """The patterns that a listener is subscribed to."""
    return [row["pattern"] for row in await store.fetch("find_patterns", listener_id=listener_id)]


async def find_declarations(store: Store, *, listener_id: int, worker_id: int, ttl: float) -> list[Declared]:
    """The declarations of a listener; `ttl` seconds ago is recent."""
    rows = await store.fetch("find_declarations", listener_id=listener_id, worker_id=worker_id, ttl=ttl)
    return [
        Declared(
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


async def note_declaration(
    store: Store, *, listener_id: int, service: str, patterns: Iterable[str], options: str, worker_id: int
) -> None:
    """Remember that a worker declares this of a listener, whose row the transaction has locked by registering it."""
    await store.fetch(
        "note_declaration",
        listener_id=listener_id,
        service=service,
        patterns=list(patterns),
        options=options,
        worker_id=worker_id,
    )


# -------------------------------------------------------------------------------------------------------------- workers


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
