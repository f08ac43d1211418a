"""In: read messages from a broker, publish them as events, and acknowledge them once that is committed.

One process at a time reads under a relay's name: the one whose session holds the relay's advisory lock. Others wait, to
take over. So messages keep the order in which they were read, and a process that lost its session can write nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from pgbus.aio.backoff import Backoff
from pgbus.config import Config
from pgbus.contrib.relay.envelope import Binding, Incoming, arrive, has_been, refuse
from pgbus.database.faults import Fault, classify
from pgbus.database.opening import open_session
from pgbus.database.session import Session
from pgbus.database.statements.received import Arrival, forget_received, lock_relay, read_bus_id, receive_messages
from pgbus.database.store import Store
from pgbus.errors import ConfigurationError, PrivilegeError, SchemaVersionError

logger = logging.getLogger("pgbus.relay")

# Seconds.
REMEMBER = 7 * 86_400.0
STANDBY_INTERVAL = 1.0
FORGET_INTERVAL = 10.0
CLOSE_TIMEOUT = 2.0
# For the broker to answer: one that is just starting may accept a connection and then say nothing on it.
ANSWER_TIMEOUT = 30.0
# Deleted in one statement at most, each FORGET_INTERVAL or at once while there are more.
FORGET_ROWS = 5_000
_FATAL = (ConfigurationError, PrivilegeError, SchemaVersionError)


class Source(Protocol):
    """A connection to a broker, to read from; it begins with what was read and not acknowledged."""

    async def fetch(self) -> Sequence[Incoming]:
        """The next messages, in their order; none after about half a second without any."""
        ...

    async def acknowledge(self) -> None:
        """Let the broker know that all that was fetched so far is done."""
        ...

    async def close(self) -> None:
        """Close the connection, whatever state it is in."""
        ...


OpenSource = Callable[[], Awaitable[Source]]


class Receiver:
    """Receives messages under a name. Runs until it is cancelled; goes on when the broker or the database returns.

    - `remember`: seconds after which a message is forgotten, and a double of it would be a new event.
    - `reading`: set while this process is the one that reads.
    - `counts`: messages that were `read`; of these, those that are `new`, and those that were `refused`; and apart from
      them the `echoes`, which this bus sent itself.
    """

    def __init__(
        self, config: Config, *, name: str, open_source: OpenSource, binding: Binding, remember: float = REMEMBER
    ) -> None:
        self._config = config
        self._name = name
        self._open_source = open_source
        self._binding = binding
        self._remember = remember
        self._forget_at = 0.0
        self.reading = asyncio.Event()
        self.counts: Counter[str] = Counter()

    async def run(self) -> None:
        """Receive; raises ConfigurationError, PrivilegeError and SchemaVersionError, which no other try can mend."""
        backoff = Backoff(0.2, 15.0)
        while True:
            try:
                await self._receive(backoff)
            except _FATAL:
                raise
            except Exception as error:
                if backoff.tries == 0:
                    logger.warning("relay %s cannot receive, and tries again: %s", self._name, _reason(error))
            finally:
                self.reading.clear()
            await asyncio.sleep(backoff.next())

    async def _receive(self, backoff: Backoff) -> None:
        async with self._locked_session() as session:
            store = session.store
            bus_id = str(await read_bus_id(store))
            source = await asyncio.wait_for(self._open_source(), ANSWER_TIMEOUT)
            try:
                self.reading.set()
                while True:
                    incoming = await asyncio.wait_for(source.fetch(), ANSWER_TIMEOUT)
                    # The commit first, then the acknowledgement: what is lost in between comes again, and is a double.
                    await self._publish(store, incoming, bus_id)
                    await asyncio.wait_for(source.acknowledge(), ANSWER_TIMEOUT)
                    if backoff.tries:
                        logger.info("relay %s receives again", self._name)
                        backoff.reset()
                    await self._forget(store)
            finally:
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(source.close(), CLOSE_TIMEOUT)

    @asynccontextmanager
    async def _locked_session(self) -> AsyncIterator[Session]:
        # The statements that publish run on the session that holds the lock: when it is lost, so is the right to write.
        session = await open_session(self._config, channels={})
        try:
            # The engine does without: here, what was acknowledged to the broker must not be lost in a crash.
            await session.connection.execute("SET synchronous_commit TO DEFAULT")
            waited = False
            while not await lock_relay(session.store, relay=self._name):
                if not waited:
                    logger.info("relay %s is read by another process; this one stands by", self._name)
                waited = True
                await asyncio.sleep(STANDBY_INTERVAL)
            yield session
        finally:
            await session.close()

    async def _publish(self, store: Store, incoming: Sequence[Incoming], bus_id: str) -> None:
        # By identity, as one statement takes no two that are the same.
        arrivals: dict[tuple[str, str], Arrival] = {}
        for message in incoming:
            limit = self._config.max_payload
            arrival = arrive(message, self._binding, relay=self._name, max_payload=limit)
            if arrival.event and has_been(arrival.event, bus_id):
                self.counts["echoes"] += 1
            else:
                arrivals.setdefault((arrival.source, arrival.message_id), arrival)
                self.counts["read"] += 1
        if arrivals:
            new = await receive(store, list(arrivals.values()), relay=self._name)
            self.counts["new"] += new
            self.counts["refused"] += sum(arrival.refused is not None for arrival in arrivals.values())

    async def _forget(self, store: Store) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._forget_at:
            forgotten = await forget_received(store, age=self._remember, most=FORGET_ROWS)
            self._forget_at = now if forgotten == FORGET_ROWS else now + FORGET_INTERVAL


async def receive(store: Store, arrivals: Sequence[Arrival], *, relay: str) -> int:
    """Publish what is new of these, and return its number; what the database refuses is kept as refused."""
    try:
        return await receive_messages(store, relay=relay, arrivals=arrivals)
    except Exception as error:
        if classify(error) is not Fault.VALUES:
            raise
        if len(arrivals) > 1:
            return sum([await receive(store, [arrival], relay=relay) for arrival in arrivals])
        if arrivals[0].refused is not None:
            raise
        refused = refuse(arrivals[0], _reason(error).encode("ascii", "replace").decode())
        return await receive_messages(store, relay=relay, arrivals=[refused])


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")
