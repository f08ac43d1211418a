"""Requests: the middleware that gives each a unit of work, and the sessions of advanced-alchemy."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

from pgbus.bus import Bus
from pgbus.causality import caused_by
from pgbus.contrib.litestar.transactions import Ambient, FindSession, RequestUnit, Scope, entered
from pgbus.contrib.requests import cause_of_scope

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_FIRST_ERROR = 400


class RequestMiddleware:
    """Pure-ASGI middleware, the outermost one: a request's events are published before its response begins.

    Events in a session are published by its commit. The others are published before the response, or dropped if it is
    an error. If they cannot be published, the error is raised, and the client gets a 500. Those of a websocket are
    published at once.

    All of them, and its calls, are caused by it: see `Cause.of_request` for the headers that say so.
    """

    def __init__(self, app: App, *, bus: Bus, find_session: FindSession) -> None:
        self.app = app
        self._bus = bus
        self._find_session = find_session

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, or one websocket."""
        unit = RequestUnit(self._bus, scope, self._find_session)

        async def publish_and_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                await self._decide(unit, message["status"])
            await send(message)

        with caused_by(cause_of_scope(scope)), entered(unit):
            await self.app(scope, receive, publish_and_send)

    async def _decide(self, unit: RequestUnit, status: int) -> None:
        emissions = unit.take()
        if status < _FIRST_ERROR:
            await asyncio.gather(*(self._bus.publish(one.payload, topic=one.topic) for one in emissions))


def configs_of_advanced_alchemy(plugins: Iterable[object]) -> list[Any]:
    """The configurations of those of these plugins that are advanced-alchemy's."""
    configs = {
        id(config): config
        for plugin in plugins
        if type(plugin).__module__.startswith("advanced_alchemy.extensions.litestar.")
        for config in getattr(plugin, "config", ())
        if hasattr(config, "session_scope_key")
    }
    return list(configs.values())


def sessions_of(configs: Iterable[Any]) -> FindSession:
    """Return a function that finds the session of a request: that of the first of these configurations that has one."""
    known = [(config.session_scope_key, _commits_itself(config)) for config in configs]
    if not known:
        return lambda _: None
    from advanced_alchemy.extensions.litestar._utils import get_aa_scope_state  # it has no public name

    def find(scope: Scope) -> Ambient | None:
        for key, commits_itself in known:
            if (session := get_aa_scope_state(scope, key)) is not None:
                return Ambient(session, commits_itself)
        return None

    return find


def _commits_itself(config: Any) -> bool:
    """Whether a session is committed with the response: the handler that does so has no other mark than its maker."""
    return getattr(config.before_send_handler, "__qualname__", "").startswith("autocommit_handler_maker")
