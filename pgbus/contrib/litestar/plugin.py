"""The plugin: an application's events on a bus, in the transactions of its requests, and commands for its operators."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from litestar import Litestar
from litestar.config.app import AppConfig
from litestar.datastructures import State
from litestar.di import Provide
from litestar.middleware import DefineMiddleware
from litestar.plugins import CLIPlugin, InitPlugin
from litestar.types import Scope as AsgiScope

from pgbus.api import BoundBus
from pgbus.bus import Bus
from pgbus.contrib.litestar.emitter import DRAIN_TIMEOUT, PgBusEventEmitter, Role
from pgbus.contrib.litestar.requests import RequestMiddleware, configs_of_advanced_alchemy, sessions_of
from pgbus.contrib.litestar.transactions import Ambient, Scope
from pgbus.contrib.litestar.worker import AppWorker

if TYPE_CHECKING:
    from click import Group


class PgBusPlugin(InitPlugin, CLIPlugin):
    """`Litestar(plugins=[PgBusPlugin(bus)])`: `emit` publishes on the bus, and `@listener` hears it from there.

    - `role`: "embedded" (default): this process runs the listeners, too. "producer": it only emits; another one runs
      `litestar pgbus run`. "worker" is what that command makes it.
    - `session`: finds the session of SQLAlchemy that a request, given by its ASGI scope, has opened, or None; it opens
      none. Default: that of advanced-alchemy's plugin.
    - `allow_unknown`: emit events that no listener here hears; default: they are refused.
    - `drain_timeout`: seconds to wait, when an embedded worker stops, for what no listener has tried yet; default 10.

    Handlers and dependencies that name a parameter `bus` get the bus: bound to the request's session where
    advanced-alchemy's plugin is there (a `pgbus.BoundBus`), else as it is.

    The worker starts after the application's own start, and has stopped before anything of that is taken down.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        role: Role = "embedded",
        session: Callable[[Scope], object | None] | None = None,
        allow_unknown: bool = False,
        drain_timeout: float = DRAIN_TIMEOUT,
    ) -> None:
        self.bus = bus
        self.role: Role = role
        self._session = session
        self._allow_unknown = allow_unknown
        self._drain_timeout = drain_timeout

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Have it done when all other plugins are through, also those that plugins add."""
        app_config.plugins.append(_AtTheEnd(self._install))
        return app_config

    def on_cli_init(self, cli: Group) -> None:
        """Add the command `litestar pgbus` to Litestar's command line."""
        from pgbus.contrib.litestar.cli import make_group

        cli.add_command(make_group(self.bus, become_worker=self._become_worker))

    def _become_worker(self) -> None:
        self.role = "worker"

    def _install(self, config: AppConfig) -> None:
        # This emitter runs no worker: it enters before what handlers need is there, and leaves when that is gone.
        config.event_emitter_backend = partial(
            PgBusEventEmitter,
            bus=self.bus,
            role="producer",
            allow_unknown=self._allow_unknown,
            drain_timeout=self._drain_timeout,
        )
        alchemy = configs_of_advanced_alchemy(config.plugins)
        config.dependencies.setdefault("bus", _provide_bus(self.bus, alchemy))
        find_session = _ambient(self._session) if self._session else sessions_of(alchemy)
        middleware = DefineMiddleware(RequestMiddleware, bus=self.bus, find_session=find_session)
        config.middleware.insert(0, middleware)
        worker = AppWorker(self.bus, drain_timeout=self._drain_timeout)
        config.on_startup.append(partial(self._start, worker))
        config.lifespan.append(self._stopping(worker))

    async def _start(self, worker: AppWorker) -> None:
        if self.role != "producer":
            await worker.start()

    def _stopping(self, worker: AppWorker) -> Callable[[Litestar], Any]:
        @asynccontextmanager
        async def lifespan(app: Litestar) -> AsyncIterator[None]:
            drains = False
            try:
                yield
                drains = self.role == "embedded"
            finally:
                await app.event_emitter.flush()
                await worker.stop(drains=drains)

        return lifespan


class _AtTheEnd(InitPlugin):
    """Does something to an application's configuration once no other plugin is left."""

    def __init__(self, action: Callable[[AppConfig], None]) -> None:
        self._action = action

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        if app_config.plugins[-1] is self:
            self._action(app_config)
        else:
            app_config.plugins.append(_AtTheEnd(self._action))
        return app_config


def _provide_bus(bus: Bus, configs: Sequence[Any]) -> Provide:
    if not configs:
        return Provide(lambda: bus, sync_to_thread=False)

    def provide(state: State, scope: AsgiScope) -> BoundBus:
        return bus.bind(configs[0].provide_session(state, scope))

    return Provide(provide, sync_to_thread=False)


def _ambient(session: Callable[[Scope], object | None]) -> Callable[[Scope], Ambient | None]:
    def find(scope: Scope) -> Ambient | None:
        found = session(scope)
        return None if found is None else Ambient(found)

    return find
