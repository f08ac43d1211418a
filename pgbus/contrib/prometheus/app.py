"""The ASGI app with `/metrics`, `/livez`, `/readyz` and `/wake`: mounted in a program, or for `pgbus run --http`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any, TypeAlias

from prometheus_client.exposition import choose_encoder

from pgbus.bus import Bus
from pgbus.contrib.prometheus.database import DatabaseMetrics
from pgbus.contrib.prometheus.process import ProcessMetrics
from pgbus.errors import PgbusError

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

_TEXT = "text/plain; charset=utf-8"
# Seconds; a probe of Kubernetes waits for one by default, and is then repeated.
_PROBE_TIMEOUT = 1.0
_GET, _POST = ("GET", "HEAD"), ("POST",)


class MonitoringApp:
    """Shows a bus of this process to Prometheus, and to probes of a container's health.

    - `/metrics`: the metrics of this process; if it leads, also the gauges of the database.
    - `/livez`: 200. It comes from the event loop: without an answer, that hangs.
    - `/readyz`: 200 if the workers of this process work, else 503 with the reason.
    - `/wake`, a POST: 202, and workers that have closed their sessions (`idle_close`) look for work.

    `has_worker`: whether this process is there to run a worker: then it is not ready before one runs. Without a worker,
    it is ready if the database can be reached. `metrics`: the process's; default: new ones, that begin now.
    """

    def __init__(self, bus: Bus, *, has_worker: bool = False, metrics: ProcessMetrics | None = None) -> None:
        self._bus = bus
        self._has_worker = has_worker
        self._registry = (metrics or ProcessMetrics(bus)).registry
        self._database = DatabaseMetrics(bus.config, registry=self._registry)
        self._routes = {"/metrics": self._metrics, "/livez": self._live, "/readyz": self._ready, "/wake": self._wake}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - no body is read
        """Answer one HTTP request; the lifespan belongs to the application."""
        if scope["type"] != "http":
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        route = self._routes.get(path)
        if route is None:
            await _send(send, HTTPStatus.NOT_FOUND, f"there are {', '.join(self._routes)}\n")
        elif scope["method"] not in (allowed := _POST if path == "/wake" else _GET):
            allow = ", ".join(allowed)
            await _send(send, HTTPStatus.METHOD_NOT_ALLOWED, f"{allow} only\n", allow=allow)
        else:
            status, body, kind = await route(scope)
            await _send(send, status, "" if scope["method"] == "HEAD" else body, kind=kind)

    async def _metrics(self, scope: Scope) -> tuple[HTTPStatus, str, str]:
        await self._database.refresh(leads=any(worker.leads for worker in self._bus.client.workers))
        accept = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"accept"), "")
        encode, kind = choose_encoder(accept)
        return HTTPStatus.OK, encode(self._registry).decode(), kind

    async def _live(self, _: Scope) -> tuple[HTTPStatus, str, str]:
        return HTTPStatus.OK, "alive\n", _TEXT

    async def _ready(self, _: Scope) -> tuple[HTTPStatus, str, str]:
        if reason := await self._why_not_ready():
            return HTTPStatus.SERVICE_UNAVAILABLE, f"not ready: {reason}\n", _TEXT
        return HTTPStatus.OK, "ready\n", _TEXT

    async def _wake(self, _: Scope) -> tuple[HTTPStatus, str, str]:
        self._bus.client.wake_workers()
        return HTTPStatus.ACCEPTED, "woken\n", _TEXT

    async def _why_not_ready(self) -> str | None:
        workers = self._bus.client.workers
        if not workers and self._has_worker:
            return "no worker runs in this process"
        if not workers:
            return await self._why_unreachable()
        return next((reason for worker in workers if (reason := worker.why_not_ready())), None)

    async def _why_unreachable(self) -> str | None:
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT):
                await self._bus.client.sender.fetch("SELECT 1")
        except TimeoutError:
            return f"the database has not answered for {_PROBE_TIMEOUT:g} s"
        except (OSError, PgbusError) as error:
            return str(error)
        return None


async def _send(send: Send, status: HTTPStatus, body: str, *, kind: str = _TEXT, allow: str | None = None) -> None:
    data = body.encode()
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(data)).encode())]
    if allow:
        headers.append((b"allow", allow.encode()))
    await send({"type": "http.response.start", "status": status.value, "headers": headers})
    await send({"type": "http.response.body", "body": data})
