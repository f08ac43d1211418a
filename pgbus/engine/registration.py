"""Registering a listener in the database: its subscriptions, its options, and where it begins."""

from __future__ import annotations

import logging
from datetime import datetime

import asyncpg
import msgspec

from pgbus.config import Config
from pgbus.registry import Listener
from pgbus.store import Registration, Store, own_transaction
from pgbus.topics import is_wildcard, pattern_regex

logger = logging.getLogger("pgbus")


async def register_listener(listener: Listener, *, pool: asyncpg.Pool, config: Config) -> Registration:
    """Register a listener, or bring what is registered up to date, and have the leader heed what is new in it."""
    wildcards = [pattern_regex(pattern) if is_wildcard(pattern) else None for pattern in listener.patterns]
    async with own_transaction(pool) as connection:
        store = Store(connection, namespace=config.namespace)
        registration = await store.register_listener(
            listener_name=listener.name,
            patterns=listener.patterns,
            regexes=wildcards,
            lanes=listener.lanes,
            options=msgspec.json.encode(listener.options()).decode(),
            service=config.service_name,
            start_position=_start_position(listener),
            start_at=listener.start if isinstance(listener.start, datetime) else None,
        )
        if registration.is_new or registration.added:
            await store.fetch("notify", channel=store.work_channel, payload="reload")
    _log(listener, registration)
    return registration


def _start_position(listener: Listener) -> int | None:
    match listener.start:
        case "beginning":
            return 0
        case int():
            return listener.start
        case _:
            return None


def _log(listener: Listener, registration: Registration) -> None:
    if registration.is_new:
        logger.info("listener %s is new; it hears %s", listener.name, ", ".join(listener.patterns))
        return
    for verb, patterns in (("now hears", registration.added), ("no longer hears", registration.removed)):
        if patterns:
            logger.info("listener %s %s %s", listener.name, verb, ", ".join(patterns))
    old = msgspec.json.decode(registration.old_options) if registration.old_options else None
    if old is not None and old != listener.options():
        logger.info("listener %s has new options: %s", listener.name, listener.options())
