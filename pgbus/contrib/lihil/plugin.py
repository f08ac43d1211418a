"""The plugin that gives an endpoint its bus, and the application's lifespan."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any

from lihil.plugins import bus as stock
from lihil.utils.typing import get_origin_pro
from sqlalchemy.ext.asyncio import AsyncSession

from pgbus.bus import Bus
from pgbus.contrib import starlette
from pgbus.contrib.lihil.invoking import request_scope, resolved_session
from pgbus.contrib.lihil.terminal import BusTerminal


class BusPlugin(stock.BusPlugin):
    """Lihil's plugin, which may itself stand in `plugins=[...]`, as well as its method `decorate`.

    The endpoint's bus joins the transaction of the request's AsyncSession: that of an argument of the endpoint, else
    the one that a reusable dependency of it has opened.
    """

    busterm: BusTerminal[Any]

    def __call__(self, ep_info: Any) -> Callable[..., Awaitable[Any]]:
        """Decorate an endpoint; the same as `decorate`."""
        return self.decorate(ep_info)

    def decorate(self, ep_info: Any) -> Callable[..., Awaitable[Any]]:
        """Wrap an endpoint that has a parameter `PEventBus`; any other stays as it is."""
        function: Callable[..., Awaitable[Any]] = ep_info.func
        name = next((name for name, plugin in ep_info.sig.plugins.items() if _is_bus(plugin.type_)), None)
        if name is None:
            return function
        ep_info.graph.merge(self.busterm.graph)

        @wraps(function)
        async def call(*args: Any, **kwargs: Any) -> Any:
            resolver = request_scope() or ep_info.graph
            bus = self.busterm.create_event_bus(resolver, session=_session_of(kwargs))
            kwargs[name] = bus
            try:
                return await function(*args, **kwargs)
            finally:
                await bus.persisted()

        return call


def _is_bus(annotation: Any) -> bool:
    kind, _ = get_origin_pro(annotation)
    kind = getattr(kind, "__origin__", kind)
    return isinstance(kind, type) and issubclass(kind, stock.EventBus)


def _session_of(arguments: dict[str, Any]) -> AsyncSession | None:
    for value in arguments.values():
        if isinstance(value, AsyncSession):
            return value
    scope = request_scope()
    return resolved_session(scope) if scope else None


class PgBusSink:
    """For Lihil's own terminal, `BusTerminal(registry, sink=PgBusSink(bus))`: `bus.sink(...)` stores events.

    Their classes are to have topics, by `@pgbus.event`.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def sink(self, event: Any) -> None:
        """Store an event, or those of a list or tuple, in one transaction."""
        await self._bus.publish_many(event if isinstance(event, list | tuple) else [event])


def lifespan(terminal: BusTerminal[Any], own: Any = None, *, run_worker: bool = False) -> Callable[[Any], Any]:
    """A lifespan for `Lihil(lifespan=...)`: at the end, what was emitted is stored, and the bus is closed.

    - `own`: the application's own lifespan, an async generator function or a context manager's, within this one.
    - `run_worker`: run handlers in the server's process; default: no, `pgbus run` does.
    """
    if inspect.isasyncgenfunction(own):
        own = asynccontextmanager(own)
    inner = starlette.lifespan(terminal.bus, own, run_worker=run_worker)

    @asynccontextmanager
    async def run(app: Any) -> AsyncIterator[None]:
        async with inner(app):
            try:
                yield
            finally:
                await terminal.drain()

    return run
