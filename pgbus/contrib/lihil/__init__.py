"""Lihil: its message bus with the events in PostgreSQL. Import from here what was imported from `lihil.plugins.bus`."""

from lihil.plugins.bus import EventBus, PEventBus, UnregisteredMessageError

from pgbus.contrib.lihil.plugin import BusPlugin, PgBusSink, lifespan
from pgbus.contrib.lihil.registry import Event, MessageContext, MessageRegistry
from pgbus.contrib.lihil.terminal import BusTerminal
from pgbus.contrib.starlette import PgBusMiddleware

__all__ = [
    "BusPlugin",
    "BusTerminal",
    "Event",
    "EventBus",
    "MessageContext",
    "MessageRegistry",
    "PEventBus",
    "PgBusMiddleware",
    "PgBusSink",
    "UnregisteredMessageError",
    "lifespan",
]
