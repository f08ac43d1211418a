"""The terminal: Lihil's handlers as listeners of a bus, and the buses of requests."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import cached_property
from types import FrameType
from typing import Any, TypeVar, Union

import asyncpg
from ididi import Graph, Resolver
from lihil.plugins import bus as stock
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool

from pgbus.bus import Bus
from pgbus.config import Config, for_asyncpg, home_of_caller
from pgbus.contrib.lihil.event_bus import PgEventBus
from pgbus.contrib.lihil.headers import context_of, is_handled
from pgbus.contrib.lihil.invoking import check_handler, listeners_in_scope, make_session_known
from pgbus.contrib.lihil.registry import Handler, MessageRegistry, name_all_topics, name_topics
from pgbus.errors import ConfigurationError
from pgbus.events import event_classes, topic_of
from pgbus.handlers.contexts import Context
from pgbus.handlers.decoding import Decode, EventDecoder
from pgbus.handlers.signatures import Signature, Wanted
from pgbus.listeners.listener import build_listener, in_service
from pgbus.messages import EventMessage
from pgbus.plugins import load_plugins

E = TypeVar("E")


class BusTerminal(stock.BusTerminal[E]):
    """Lihil's terminal, whose handlers are listeners of `bus`; commands are as they were.

    A worker calls each handler in a transaction of its own: what it writes with the AsyncSession that it gets, and what
    it publishes through its bus, commit together with the acknowledgement.

    - `sink`, `sender`, `publisher`, `graph`: as Lihil's. Without a `sink`, events are stored as by `emit`.
    - `bus`: the service's bus; default: a new one, configured as `pgbus.create()` is.
    - `sessions`: makes the sessions of workers, and of a publish outside of a request's session; default: the bus's
      own, and for such a publish one that connects each time.
    - `durable`: publishing leaves handlers to workers; default: it runs those of this process.
    - `allow_unrouted`: publish what no handler of this process hears; default: UnregisteredMessageError.
    """

    def __init__(
        self,
        *registries: MessageRegistry[E],
        graph: Any = None,
        sink: Any = None,
        sender: Any = stock.default_send,
        publisher: Any = stock.default_publish,
        bus: Bus | None = None,
        sessions: async_sessionmaker[AsyncSession] | None = None,
        durable: bool = False,
        allow_unrouted: bool = False,
    ) -> None:
        self.bus = bus or _new_bus(sys._getframe(1))
        self.durable = durable
        self.allow_unrouted = allow_unrouted
        self._handlers: dict[str, Handler] = {}
        self._event_bases: list[type] = []
        wanted = Wanted("sqlalchemy_async", AsyncSession, sessions)
        self._signature = Signature(
            is_async=True, event="event", event_type=None, context="context", connection="session", wanted=wanted
        )
        if sessions:
            self.sessions = sessions
        graph = Graph() if graph is None else graph
        make_session_known(graph)
        super().__init__(*registries, graph=graph, sink=sink, sender=sender, publisher=publisher)

    @cached_property
    def sessions(self) -> async_sessionmaker[AsyncSession]:
        """Makes the session of a publish that has none."""

        async def connect() -> asyncpg.Connection:
            return await asyncpg.connect(for_asyncpg(self.bus.config.dsn))

        engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
        return async_sessionmaker(engine, expire_on_commit=False)

    def include(self, *registries: Any) -> None:
        """Add registries, whose handlers become listeners, in order.

        Raises ConfigurationError for a registry of Lihil's own, and DuplicateListenerName for a handler that is there
        already.
        """
        for registry in registries:
            if not isinstance(registry, MessageRegistry):
                raise ConfigurationError("import MessageRegistry from pgbus.contrib.lihil, as the terminal is")
        super().include(*registries)
        for registry in registries:
            if registry.event_base:
                self._event_bases.append(registry.event_base)
            for handler in registry.handlers:
                self._declare(handler, registry.event_base)

    def create_event_bus(self, resolver: Resolver, *, session: AsyncSession | None = None) -> PgEventBus:
        """A bus that publishes in the transaction of `session`; without one, in transactions of its own."""
        return PgEventBus(resolver, self._listener_manager, self._publisher, self._sink, self._tasks, self, session)

    def heard_by(self, event_type: type) -> dict[str, Handler]:
        """The handlers that hear events of the class, by listener_name, in the order of their registration."""
        return {name: handler for name, handler in self._handlers.items() if handler.hears(event_type)}

    def name_topic(self, event: Any) -> None:
        """See that the event's class has a topic."""
        kind = type(event)
        base = next((base for base in self._event_bases if issubclass(kind, base)), kind)
        name_topics(kind, base)

    async def drain(self) -> None:
        """Wait until what was emitted is stored, whether it succeeds or not."""
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    def _declare(self, handler: Handler, event_base: Any) -> None:
        check_handler(handler)
        name = in_service(self.bus.config.service_name, handler.name)
        decoder = EventDecoder(Union[handler.types])  # noqa: UP007 - of a tuple
        self.bus.registry.listeners.add(
            build_listener(
                self._listener(name, handler),
                tuple(str(topic_of(event_type)) for event_type in handler.types),
                signature=self._signature,
                decode=_decode(decoder, event_base),
                reads=decoder.reads,
                name=name,
                transactional=True,
            )
        )
        self._handlers[name] = handler

    def _listener(self, name: str, handler: Handler) -> Callable[..., Any]:
        async def handle(event: Any, context: Context, session: AsyncSession) -> None:
            stored = context.event
            if is_handled(stored, name):
                return
            bus = self.create_event_bus(self.graph, session=session)
            async with listeners_in_scope(self.graph, [handler], session=session, bus=bus) as [call]:
                await call(event, context_of(stored.headers))
            await bus.persisted()

        return handle


def _decode(decoder: EventDecoder, event_base: Any) -> Decode:
    def decode(event: EventMessage) -> Any:
        if event.topic not in event_classes():  # its class may have been defined since
            name_all_topics(event_base)
        return decoder(event)

    return decode


def _new_bus(frame: FrameType) -> Bus:
    config = Config.load({})
    if home := home_of_caller(frame):
        config = config.at_home(home)
    return Bus(config, plugins=load_plugins(config))
