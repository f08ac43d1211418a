"""`litestar pgbus ...`: the commands of `pgbus`, for the bus of an application, and a worker that runs in it."""

from __future__ import annotations

from collections.abc import Callable

import rich_click as click
from click import get_current_context
from litestar import Litestar

from pgbus.bus import Bus
from pgbus.cli.group import PgbusGroup
from pgbus.cli.logs import configure_logging
from pgbus.cli.loops import open_runner
from pgbus.cli.program import load
from pgbus.cli.signals import heed_signals

# Of the commands of `pgbus`, those that look at a database or change something in it.
_COMMANDS = ("call", "db", "dead", "events", "inspect", "listeners", "publish", "schedules", "status")
_APP = "pgbus.litestar.app"


def make_group(bus: Bus, *, become_worker: Callable[[], None]) -> click.Group:
    """The commands for an application's bus. `become_worker` is called before the application starts to run listeners.

    Litestar passes its application to what names a parameter `app`.
    """

    @click.group("pgbus", cls=PgbusGroup)
    def pgbus(app: Litestar) -> None:
        """Events of this application: run its listeners, and see how the emitted events were handled."""
        config = bus.config
        context = get_current_context()
        context.meta[_APP] = app
        # Where the commands look for the options --dsn and --namespace.
        context.obj = {"dsn": config.dsn, "direct_dsn": config.direct_dsn, "namespace": config.namespace}

    @pgbus.command("run")
    def run() -> None:
        """Run the application's listeners until SIGTERM, Ctrl-C or SIGHUP, and no HTTP server."""
        config = bus.config
        configure_logging(level=config.log_level, format=config.log_format)
        become_worker()
        with open_runner("auto") as runner:
            runner.run(_work(get_current_context().meta[_APP], bus))

    for name in _COMMANDS:
        pgbus.add_command(load(name))
    return pgbus


async def _work(app: Litestar, bus: Bus) -> None:
    client = bus.client
    is_asked_to_stop = False

    def stop() -> None:
        nonlocal is_asked_to_stop
        is_asked_to_stop = True
        client.request_shutdown()

    heed_signals(stop)
    async with app.lifespan():
        if not is_asked_to_stop:  # before there was a worker
            await client.raise_errors()
