"""Starlette and FastAPI: the bus in the application's lifespan, and a middleware that answers for calls that failed.

Plain ASGI: nothing here imports the framework, so other ASGI applications may use it as well.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, TypeAlias

import msgspec

from pgbus.bus import Bus
from pgbus.causality import caused_by
from pgbus.contrib.requests import cause_of_scope
from pgbus.contrib.statuses import status_of
from pgbus.errors import NoAnswer

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
# Of an application; its value, if it has one, is the state that requests find at `request.state`.
Lifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]

logger = logging.getLogger("pgbus")


def lifespan(
    bus: Bus, own: Lifespan | None = None, *, run_worker: bool = False
) -> Callable[[Any], AbstractAsyncContextManager[Any]]:
    """A lifespan for `Starlette(lifespan=...)` or `FastAPI(lifespan=...)`: it closes the bus when the server stops.

    - `own`: the application's own lifespan, within this one. Its state is passed on.
    - `run_worker`: run a worker in the server's process; default: no, `pgbus run` does. It starts after `own` has made
      what handlers need, and has stopped, after at most the setting `grace` in seconds, before `own` takes that away.

    Without a worker, nothing is connected until the bus is used. With one, the server does not start unless the worker
    does: raises what `bus.client.start_worker` does.
    """

    @asynccontextmanager
    async def run(app: Any) -> AsyncIterator[Any]:
        async with bus, own(app) if own else nullcontext() as state, _working(bus) if run_worker else nullcontext():
            yield state

    return run


@asynccontextmanager
async def _working(bus: Bus) -> AsyncIterator[None]:
    await bus.client.start_worker()
    try:
        yield
    finally:
        await bus.client.stop_worker()


class PgBusMiddleware:
    """Pure-ASGI middleware: `request.state.bus` is the bus, and a call without an answer is 503, 504 or 502.

    What a request publishes and calls is caused by it: see `Cause.of_request` for the headers that say so.

    503 for NoWorkerAvailable, 504 for CallTimeout, 502 for WorkerLost; the body is JSON, `{"detail": ...}`. An
    exception handler of the application for these errors comes first. An error after the response has begun comes
    through.
    """

    def __init__(self, app: App, bus: Bus) -> None:
        self._app = app
        self._bus = bus

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, one websocket, or the lifespan."""
        if scope["type"] in ("http", "websocket"):
            scope.setdefault("state", {})["bus"] = self._bus
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        with caused_by(cause_of_scope(scope)):
            if scope["type"] == "http":
                await self._respond(scope, receive, send)
            else:
                await self._app(scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def watch(message: Message) -> None:
            nonlocal has_begun
            has_begun = has_begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except NoAnswer as error:
            if has_begun:
                raise
            logger.warning("%s %s: %s", scope["method"], scope["path"], error)
            status = status_of(error)
            body = msgspec.json.encode({"detail": status.phrase})
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": status.value, "headers": headers})
            await send({"type": "http.response.body", "body": body})
