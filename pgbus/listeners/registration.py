"""Registering listeners in the database: their subscriptions, their options, and where they begin."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from pgbus.config import Config
from pgbus.database.connections import Pool, own_transaction
from pgbus.database.statements import listeners, notifications
from pgbus.database.statements.inspection import find_position_at
from pgbus.database.statements.listeners import Registered, Registration, SubscriptionChanges
from pgbus.database.store import Store
from pgbus.errors import ConfigurationError
from pgbus.listeners.listener import Listener
from pgbus.listeners.sharing import (
    Declaration,
    Neighbour,
    find_conflict,
    find_sharing,
    is_outdated,
    subscribed_patterns,
)

logger = logging.getLogger("pgbus")


async def register_listeners(
    declared: Sequence[Listener], *, pool: Pool, config: Config, worker_id: int
) -> dict[str, int]:
    """Register listeners, or bring what is registered up to date, and have the leader heed what is new; ids by name.

    One transaction, and as many statements for thousands as for one. Raises ConfigurationError when a live worker of
    another service declares one of them otherwise; then none is registered.
    """
    if not declared:
        return {}
    async with own_transaction(pool) as connection:
        store = Store(connection, namespace=config.namespace)
        registrations = await _make_registrations(store, declared)
        # It locks the rows until the commit, in the order of their names: of two services that start at once the second
        # waits here, and then sees what the first has declared. `expire_declarations` steps over them meanwhile.
        registered = {
            one.listener_name: one
            for one in await listeners.register_listeners(
                store, list(registrations.values()), service=config.service_name
            )
        }
        known = await _find_declarations(
            store, [one.id for one in registered.values()], worker_id=worker_id, ttl=config.worker_ttl
        )
        entries = [
            _judge(one, registrations[one.name], registered[one.name], known=known, config=config) for one in declared
        ]
        # After the judgement of all: a conflict rolls back the whole transaction, so that no listener of ours is half
        # changed.
        await _declare(store, entries, service=config.service_name, worker_id=worker_id)
        changes = await listeners.replace_subscriptions(
            store, {entry.id: subscribed_patterns(entry.ours, entry.known) for entry in entries}
        )
        if any(entry.registered.is_new or changes[entry.id].added for entry in entries):
            # For the leader only: after `reload`, every listener of every worker would look for work.
            await notifications.notify_workers(store, "subscribed")
    # After the commit: what is rolled back must not be in the log as if it held.
    for entry in entries:
        _log(entry.listener, entry.registered, changes[entry.id], outdated=entry.is_outdated)
        if sharing := find_sharing(entry.ours, entry.known):
            logger.warning("listener %s: %s", entry.listener.name, sharing)
    return {entry.listener.name: entry.id for entry in entries}


class _Entry(msgspec.Struct, frozen=True):
    """A listener, what we declare of it, and what others do."""

    listener: Listener
    registration: Registration
    registered: Registered
    ours: Declaration
    known: Sequence[Declaration]
    is_outdated: bool

    @property
    def id(self) -> int:
        return self.registered.id


async def _make_registrations(store: Store, declared: Sequence[Listener]) -> dict[str, Registration]:
    # A listener that begins at an instant is not live there, even at the log's end: an event that the leader is
    # sequencing at this moment is not missed.
    instants = {one.start for one in declared if isinstance(one.start, datetime)}
    positions = {instant: await find_position_at(store, instant=instant) for instant in instants}
    return {
        one.name: Registration(
            listener_name=one.name,
            lanes=one.lanes,
            options=msgspec.json.encode(one.options()).decode(),
            start_position=_start_position(one, positions),
        )
        for one in declared
    }


def _start_position(listener: Listener, positions: Mapping[datetime, int]) -> int | None:
    match listener.start:
        case "beginning":
            return 0
        case int():
            return listener.start
        case datetime():
            return positions[listener.start]
        case _:
            return None


async def _find_declarations(
    store: Store, listener_ids: Sequence[int], *, worker_id: int, ttl: float
) -> dict[int, list[Declaration]]:
    found: dict[int, list[Declaration]] = {id_: [] for id_ in listener_ids}
    for one in await listeners.find_declarations(store, listener_ids, worker_id=worker_id, ttl=ttl):
        found[one.listener_id].append(
            Declaration(
                service=one.service,
                home=one.home,
                patterns=one.patterns,
                options=msgspec.json.decode(one.options),
                first_seen_at=one.first_seen_at,
                is_recent=one.is_recent,
                worker=Neighbour(one.worker.name, one.worker.host, one.worker.pid) if one.worker else None,
            )
        )
    return found


def _judge(
    listener: Listener,
    registration: Registration,
    registered: Registered,
    *,
    known: Mapping[int, Sequence[Declaration]],
    config: Config,
) -> _Entry:
    """Compare what we declare with what others do; raises ConfigurationError."""
    ours = Declaration(
        service=config.service_name,
        home=config.home,
        patterns=tuple(sorted(listener.patterns)),
        options=listener.options(),
    )
    others = known[registered.id]
    if conflict := find_conflict(ours, others):
        raise ConfigurationError(f"listener {listener.name!r} is taken: {conflict}")
    return _Entry(listener, registration, registered, ours, others, is_outdated(ours, others))


async def _declare(store: Store, entries: Sequence[_Entry], *, service: str, worker_id: int) -> None:
    """Note what this worker declares, and make our options the listeners' unless they are outdated."""
    await listeners.note_declarations(
        store,
        {entry.id: (entry.ours.patterns, entry.registration.options) for entry in entries},
        service=service,
        worker_id=worker_id,
    )
    await listeners.set_listener_options(
        store, {entry.id: entry.registration for entry in entries if not entry.is_outdated}, service=service
    )


def _log(listener: Listener, registered: Registered, changes: SubscriptionChanges, *, outdated: bool) -> None:
    if registered.is_new:
        logger.info("listener %s is new; it listens to %s", listener.name, ", ".join(listener.patterns))
        return
    for verb, patterns in (("now hears", changes.added), ("no longer hears", changes.removed)):
        if patterns:
            logger.info("listener %s %s %s", listener.name, verb, ", ".join(patterns))
    old = msgspec.json.decode(registered.old_options) if registered.old_options else None
    if old is None or old == listener.options():
        return
    if outdated:
        logger.info("listener %s keeps the options of the newer version that runs: %s", listener.name, old)
    else:
        logger.info("listener %s has new options: %s", listener.name, listener.options())
