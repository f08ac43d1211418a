"""Out: a listener whose handler writes each event to another system, and returns once that has acknowledged it.

It is ordered: the next event of a key is written after the one before it was acknowledged, so that no failure in
between can change their order there. Events of other keys are under way at the same time, which fills the client's
batches.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol
from uuid import UUID

from pgbus.bus import Bus
from pgbus.cloudevents import CloudEvent
from pgbus.contrib.relay.envelope import depart, has_been
from pgbus.database.statements.received import read_bus_id
from pgbus.database.store import Store
from pgbus.errors import BrokerUnreachableError, ConfigurationError, Dead, MessageRefusedError
from pgbus.handlers.outcomes import RetryPolicy
from pgbus.messages import EventMessage

logger = logging.getLogger("pgbus.relay")

# As many as an ordered listener has lanes.
CONCURRENCY = 64
# Seconds for one message to be acknowledged.
SEND_TIMEOUT = 30.0
CLOSE_TIMEOUT = 2.0
# A broker that is away for days must cost no event: only what it refuses becomes a dead letter.
RETRY = RetryPolicy(max_attempts=1_000_000_000, base_delay=0.25, max_delay=30.0)
MOST_REFUSALS = 10


class Sink(Protocol):
    """A connection to another system, to write to."""

    def leads_to(self, event: EventMessage) -> str:
        """The place where this event would go, as `origins` names it; or the id of the bus there."""
        ...

    async def send(self, cloud: CloudEvent) -> None:
        """Write an event, and return once it is acknowledged; raises MessageRefusedError, or what else happened."""
        ...

    async def close(self) -> None:
        """Close the connection, whatever state it is in."""
        ...


OpenSink = Callable[[], Awaitable[Sink]]


class Outlet:
    """The sink, opened when it is first needed, and again after it has failed."""

    def __init__(self, open_sink: OpenSink) -> None:
        self._open_sink = open_sink
        # Held while the sink is opened: the handlers that need one at the same time share it.
        self._opening = asyncio.Lock()
        self._sink: Sink | None = None
        # Whether the log says that the broker is away: once for all handlers that find it so, and once that it is back.
        self._is_away = False

    async def opened(self) -> Sink:
        """Return the sink; raises BrokerUnreachableError where there is none."""
        async with self._opening:
            if self._sink is None:
                try:
                    self._sink = await asyncio.wait_for(self._open_sink(), SEND_TIMEOUT)
                except ConfigurationError:
                    raise
                except Exception as error:
                    raise self._away(error) from error
            return self._sink

    async def send(self, cloud: CloudEvent) -> None:
        """Write an event; raises MessageRefusedError, and BrokerUnreachableError if it is not known to be written."""
        sink = await self.opened()
        try:
            await asyncio.wait_for(sink.send(cloud), SEND_TIMEOUT)
        except MessageRefusedError:
            raise
        except Exception as error:
            # Also after a timeout: whether the event was written is not known, and the next try, under the same id, is
            # on another connection.
            await self._drop(sink)
            raise self._away(error) from error
        if self._is_away:
            self._is_away = False
            logger.info("the relay writes again")

    async def close(self) -> None:
        """Close the sink, if one is open."""
        if self._sink is not None:
            await self._drop(self._sink)

    async def _drop(self, sink: Sink) -> None:
        """Give up a sink that has failed: many tasks may find that at once."""
        if self._sink is not sink:
            return
        # Before the `await`, so that the next handler opens another one, and does not get this one.
        self._sink = None
        with contextlib.suppress(Exception):
            await asyncio.wait_for(sink.close(), CLOSE_TIMEOUT)

    def _away(self, error: Exception) -> BrokerUnreachableError:
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        if not self._is_away:
            self._is_away = True
            logger.warning("the relay cannot write, and tries again: %s", reason)
        return BrokerUnreachableError(reason)


class Relay:
    """The handler of a relay: writes the events of a bus to an outlet, except those that came from there."""

    def __init__(self, bus: Bus, outlet: Outlet) -> None:
        self._store = Store(bus.client.sender, namespace=bus.config.namespace)
        self._source = bus.config.service_name or "pgbus"
        self._outlet = outlet
        self._bus_id: UUID | None = None
        # Not by the attempts of the event, which grow while the broker is away: a broker that has just started may
        # refuse what it takes a moment later.
        self._refusals: Counter[UUID] = Counter()

    async def handle(self, event: EventMessage) -> None:
        """Write one event; what is refused for the tenth time becomes a dead letter."""
        bus_id = self._bus_id = self._bus_id or await read_bus_id(self._store)
        sink = await self._outlet.opened()
        if has_been(event, sink.leads_to(event)):
            return  # it came from there: a bridge in both directions would send it back and forth forever
        try:
            await self._outlet.send(depart(event, bus_id=bus_id, source=self._source))
        except MessageRefusedError as error:
            self._refusals[event.event_id] += 1
            if self._refusals[event.event_id] < MOST_REFUSALS:
                raise
            del self._refusals[event.event_id]
            raise Dead(str(error)) from error
        self._refusals.pop(event.event_id, None)


def add_relay(bus: Bus, patterns: Sequence[str], *, name: str, open_sink: OpenSink) -> Outlet:
    """Declare a relay on the bus: a listener of this name, which writes to the outlet that this returns.

    Raises ConfigurationError for a pattern or name that cannot be.
    """
    outlet = Outlet(open_sink)
    relay = Relay(bus, outlet)
    bus.listener(*patterns, name=name, ordered=True, concurrency=CONCURRENCY, retry=RETRY)(relay.handle)
    return outlet
