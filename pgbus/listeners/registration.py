"""Registering a listener in the database: its subscriptions, its options, and where it begins."""

from __future__ import annotations

import logging
from datetime import datetime

import msgspec

from pgbus.config import Config
from pgbus.database.connections import Pool, own_transaction
from pgbus.database.statements import listeners, sequencer
from pgbus.database.statements.listeners import Registered, SubscriptionChanges
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


async def register_listener(listener: Listener, *, pool: Pool, config: Config, worker_id: int) -> int:
    """Register a listener, or bring what is registered up to date, and have the leader heed what is new in it; its id.

    Raises ConfigurationError when a live worker of another service declares it otherwise.
    """
    ours = Declaration(
        service=config.service_name,
        home=config.home,
        patterns=tuple(sorted(listener.patterns)),
        options=listener.options(),
    )
    async with own_transaction(pool) as connection:
        store = Store(connection, namespace=config.namespace)
        # It locks the row, so that of two services that start at once the second sees the first.
        registered = await _insert_or_lock(store, listener, service=ours.service)
        known = await _find_declarations(store, registered.id, worker_id=worker_id, ttl=config.worker_ttl)
        if conflict := find_conflict(ours, known):
            raise ConfigurationError(f"listener {listener.name!r} is taken: {conflict}")
        outdated = is_outdated(ours, known)
        await _declare(store, listener, ours, listener_id=registered.id, worker_id=worker_id, outdated=outdated)
        changes = await listeners.replace_subscriptions(
            store, listener_id=registered.id, patterns=subscribed_patterns(ours, known)
        )
        if registered.is_new or changes.added:
            # For the leader only: after `reload`, every listener of every worker would look for work.
            await sequencer.notify_workers(store, "subscribed")
    _log(listener, registered, changes, outdated=outdated)
    if sharing := find_sharing(ours, known):
        logger.warning("listener %s: %s", listener.name, sharing)
    return registered.id


async def _insert_or_lock(store: Store, listener: Listener, *, service: str) -> Registered:
    return await listeners.register_listener(
        store,
        listener_name=listener.name,
        lanes=listener.lanes,
        options=_options_of(listener),
        service=service,
        start_position=_start_position(listener),
        start_at=listener.start if isinstance(listener.start, datetime) else None,
    )


async def _declare(
    store: Store, listener: Listener, ours: Declaration, *, listener_id: int, worker_id: int, outdated: bool
) -> None:
    """Note what this worker declares, and make our options the listener's unless they are `outdated`."""
    options = _options_of(listener)
    await listeners.note_declaration(
        store,
        listener_id=listener_id,
        service=ours.service,
        patterns=ours.patterns,
        options=options,
        worker_id=worker_id,
    )
    if not outdated:
        await listeners.set_listener_options(
            store, listener_id=listener_id, lanes=listener.lanes, options=options, service=ours.service
        )


def _options_of(listener: Listener) -> str:
    return msgspec.json.encode(listener.options()).decode()


async def _find_declarations(store: Store, listener_id: int, *, worker_id: int, ttl: float) -> list[Declaration]:
    return [
        Declaration(
            service=one.service,
            home=one.home,
            patterns=one.patterns,
            options=msgspec.json.decode(one.options),
            first_seen_at=one.first_seen_at,
            is_recent=one.is_recent,
            worker=Neighbour(one.worker.name, one.worker.host, one.worker.pid) if one.worker else None,
        )
        for one in await listeners.find_declarations(store, listener_id=listener_id, worker_id=worker_id, ttl=ttl)
    ]


def _start_position(listener: Listener) -> int | None:
    match listener.start:
        case "beginning":
            return 0
        case int():
            return listener.start
        case _:
            return None


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
