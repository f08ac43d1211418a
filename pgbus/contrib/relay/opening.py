"""Sinks and sources by address: each broker's module is imported when it is used, as its client comes with an extra."""

from __future__ import annotations

import re
from typing import Any

from pgbus.cli.extras import import_extra
from pgbus.config import Config
from pgbus.contrib.relay.addresses import Address
from pgbus.contrib.relay.inward import REMEMBER, Receiver
from pgbus.contrib.relay.outward import OpenSink
from pgbus.errors import ConfigurationError

# The parameter that says what to read.
_READ = {"kafka": "topic", "nats": "stream", "rabbit": "queue", "redis": "stream"}


def sink_at(address: Address, config: Config, *, name: str, structured: bool = False) -> OpenSink:
    """How a relay of this name opens its sink; raises ConfigurationError where the client is not installed."""
    if address.kind == "postgres":
        from pgbus.contrib.relay.postgres import PostgresSink

        if structured:
            raise ConfigurationError("between two databases, events have no mode: leave --structured out")
        return lambda: PostgresSink.open(address, config, name=name)
    opened = getattr(_module(address.kind), f"{address.kind.capitalize()}Sink").open

    async def open_sink() -> Any:
        return await opened(address, structured=structured)

    return open_sink


def receiver_from(address: Address, config: Config, *, name: str, remember: float = REMEMBER) -> Receiver:
    """A receiver of messages from there under this name.

    Raises ConfigurationError where the client is not installed or nothing to read is named, and for a PostgreSQL, which
    others write to.
    """
    if address.kind == "postgres":
        raise ConfigurationError(
            "from one PostgreSQL to another: run `pgbus relay --to` at the one that has the events"
        )
    address.names(_READ[address.kind])
    module = _module(address.kind)
    opened = getattr(module, f"{address.kind.capitalize()}Source").open

    async def open_source() -> Any:
        return await opened(address, name=name)

    return Receiver(config, name=name, open_source=open_source, binding=module.BINDING, remember=remember)


def name_of(address: Address, config: Config) -> str:
    """The name of the relay of a service that reads there: the same at each start, and another for each address."""
    given = [address.parameters[name] for name in sorted(address.parameters)]
    words = [config.service_name or "pgbus", address.kind, *given]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", "-".join(words)).strip("-")


def _module(kind: str) -> Any:
    return import_extra(f"pgbus.contrib.relay.{kind}", used_by=f"a relay to or from {kind}", extra=f"relay-{kind}")
