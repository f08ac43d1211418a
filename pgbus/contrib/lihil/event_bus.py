"""The bus of a request or of a handler: publish, emit and sink, in the transaction of its session if it has one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol

import msgspec
from ididi import Resolver
from lihil.plugins import bus as stock
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from pgbus.bus import Bus
from pgbus.causality import caused_by
from pgbus.contrib.lihil.callbacks import callbacks_of
from pgbus.contrib.lihil.headers import context_of, make_headers
from pgbus.contrib.lihil.invoking import listeners_in_scope
from pgbus.contrib.lihil.registry import Handler
from pgbus.database.adapters.added import AddedTo
from pgbus.database.adapters.sessions import watching


class Terminal(Protocol):
    """Makes buses, and knows the handlers of this process; for its attributes see `BusTerminal`."""

    bus: Bus
    durable: bool
    allow_unrouted: bool

    @property
    def sessions(self) -> async_sessionmaker[AsyncSession]:
        """Makes the session of a publish that has none."""
        ...

    def name_topic(self, event: Any) -> None:
        """See that the event's class has a topic."""
        ...

    def heard_by(self, event_type: type) -> dict[str, Handler]:
        """The handlers that hear events of the class, by listener_name, in the order of their registration."""
        ...

    def create_event_bus(self, resolver: Resolver, *, session: AsyncSession | None) -> PgEventBus:
        """A bus that publishes in the transaction of `session`; without one, in transactions of its own."""
        ...


class PgEventBus(stock.EventBus[Any], frozen=True):  # type: ignore[call-arg, unused-ignore] # where Lihil is missing
    """Lihil's EventBus, as a terminal makes it for a request, a handler, or anybody.

    With a `session` everything joins its transaction; else each publish has one of its own. `cause` is the event whose
    handler this bus was made for.
    """

    terminal: Terminal
    session: Any = None
    emitted: set[asyncio.Task[Any]] = msgspec.field(default_factory=set)

    async def publish(
        self, event: Any, *, context: Mapping[str, Any] | None = None, durable: bool | None = None
    ) -> None:
        """Store the event and run its handlers of this process in order, in one transaction.

        What a handler raises comes through and undoes all of it; the handlers after it do not run. Handlers of other
        services hear the event from their workers.

        - `context`: what each handler gets as its second argument: by name, of JSON values, at most 8 KiB.
        - `durable`: store it only, and leave all handlers to workers; default: as the terminal has it.

        Raises UnregisteredMessageError where no handler of this process hears the event, unless it is durable or the
        terminal allows it; and what `pgbus.Bus.publish` does.
        """
        terminal = self.terminal
        terminal.name_topic(event)
        if terminal.durable if durable is None else durable:
            headers = make_headers(context)
            await terminal.bus.publish(event, using=self.session, headers=headers)
            return
        heard_by = terminal.heard_by(type(event))
        if not heard_by and not terminal.allow_unrouted:
            raise stock.UnregisteredMessageError(type(event))
        headers = make_headers(context, handled_by=heard_by)
        async with self._transaction() as session:
            stored = await terminal.bus.publish(event, using=session, headers=headers)
            inner = terminal.create_event_bus(self.resolver, session=session)
            handlers = list(heard_by.values())
            with caused_by(stored):
                async with listeners_in_scope(self.resolver, handlers, session=session, bus=inner) as listeners:
                    await self.strategy(event, context_of(headers), listeners)
                await inner.persisted()

    def emit(
        self,
        event: Any,
        context: Mapping[str, Any] | None = None,
        callback: Callable[[asyncio.Future[Any]], object] | None = None,
    ) -> None:
        """Store the event without waiting; workers run its handlers, each in a scope of its own.

        In the transaction of a session it is stored when that commits. Else it is being stored from now on, and
        `persisted` waits for that, as the endpoint does before its response is sent. `callback` gets a future that is
        done, with the error if there is one, once the event is stored.
        """
        terminal = self.terminal
        terminal.name_topic(event)
        headers = make_headers(context)
        if self.session is not None and self.session.in_transaction():
            added = AddedTo(self.session)
            terminal.bus.publish_sync(event, using=added, headers=headers)
            if callback:
                callbacks_of(self.session.sync_session).add(added.rows[-1], partial(_call_back, callback))
            return
        task = asyncio.create_task(terminal.bus.publish(event, headers=headers), name="pgbus emit")
        self.tasks.add(task)
        self.emitted.add(task)
        task.add_done_callback(self.tasks.discard)
        if callback:
            task.add_done_callback(callback)

    async def sink(self, event: Any) -> None:
        """Store an event, or a sequence of them, and run nothing here; with the terminal's own `sink`, that does it."""
        if self.event_sink is not None:
            await super().sink(event)
            return
        events = list(event) if isinstance(event, Sequence) else [event]
        for one in events:
            self.terminal.name_topic(one)
        await self.terminal.bus.publish_many(events, using=self.session)

    async def persisted(self) -> None:
        """Wait until events that were emitted outside of a transaction are stored; raises their first error."""
        emitted = list(self.emitted)
        self.emitted.clear()
        await asyncio.gather(*emitted)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncSession]:
        if self.session is None:
            async with self.terminal.sessions.begin() as session:
                yield session
            return
        with watching(self.session.sync_session):
            await self.session.connection()
        async with (
            self.session.begin_nested()
        ):  # a failed publish is undone, also where the endpoint goes on and commits
            yield self.session


def _call_back(callback: Callable[[asyncio.Future[Any]], object]) -> None:
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    done.set_result(None)
    callback(done)
