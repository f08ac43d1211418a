"""`pgbus run`: a worker for the bus of a module, in this process or in several."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import rich_click as click
from click import get_current_context
from rich.table import Table
from rich.text import Text

import pgbus
from pgbus import migrate
from pgbus.admin import Admin
from pgbus.cli.exits import fail
from pgbus.cli.options import database_options, load_config
from pgbus.cli.output import console
from pgbus.cli.reloading import run_reloading
from pgbus.cli.supervisor import SUPERVISED, supervise
from pgbus.config import Config, LogFormat, LogLevel, hide_password
from pgbus.logs import configure_logging


@click.command()
@click.argument("module", required=False, metavar="[MODULE[:BUS]]")
@database_options
@click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True, help="Run so many workers.")
@click.option("--listener", "only", metavar="NAME", multiple=True, help="Run only this listener. May be given again.")
@click.option("--skip", metavar="NAME", multiple=True, help="Do not run this listener. May be given again.")
@click.option("--reload", "wants_reload", is_flag=True, help="Restart when a source file changes.")
@click.option("--migrate", "wants_upgrade", is_flag=True, help="Upgrade the database's schema first.")
@click.option("--log-level", type=click.Choice(get_args(LogLevel)), help="What to log; default: info.")
@click.option("--log-format", type=click.Choice(get_args(LogFormat)), help="How to log; default: text.")
def run(
    *,
    module: str | None,
    processes: int,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    wants_reload: bool,
    wants_upgrade: bool,
    log_level: str | None,
    log_format: str | None,
) -> None:
    """Run the listeners of a bus until SIGTERM or Ctrl-C, which let running handlers finish; a second one does not.

    MODULE is imported from the working directory (default: PGBUS_MODULE, or `bus`); BUS is the bus's name in it
    (default: `bus`).
    """
    config = load_config(module=module, log_level=log_level, log_format=log_format)
    _pass_on(config)
    configure_logging(level=config.log_level, format=config.log_format)
    command = _command(only=only, skip=skip, wants_upgrade=wants_upgrade)
    if wants_reload:
        run_reloading([*command, "--processes", str(processes)])
    elif processes > 1:
        get_current_context().exit(supervise(command, processes=processes))
    else:
        _run_here(config, only=only, skip=skip, wants_upgrade=wants_upgrade)


def _pass_on(config: Config) -> None:
    """Show options to the module's `pgbus.create()` and to our copies: as variables, for a DSN is a secret."""
    for row in config.describe():
        if row.source == "argument":
            os.environ[f"PGBUS_{row.name.upper()}"] = str(getattr(config, row.name))


def _command(*, only: tuple[str, ...], skip: tuple[str, ...], wants_upgrade: bool) -> list[str]:
    listeners = [f"--listener={name}" for name in only] + [f"--skip={name}" for name in skip]
    return [sys.executable, "-m", "pgbus.cli", "run", *listeners, *(["--migrate"] if wants_upgrade else [])]


def _run_here(config: Config, *, only: tuple[str, ...], skip: tuple[str, ...], wants_upgrade: bool) -> None:
    bus = _import_bus(config.module)
    if wants_upgrade:
        migrate.upgrade(bus.config.session_dsn, namespace=bus.config.namespace)
    if config.log_format == "text":
        _print_banner(bus.config, module=config.module)
    asyncio.run(_work(bus, only=only, skip=skip))


def _import_bus(target: str) -> pgbus.Bus:
    name, _, attribute = target.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A module that is there, but imports one that is not, shows its own traceback.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        fail(f"there is no module {name!r} in {Path.cwd()}; say `pgbus run MODULE:BUS` or set PGBUS_MODULE")
    wanted = attribute or "bus"
    bus = getattr(module, wanted, None)
    if bus is None:
        fail(f"module {name!r} has no {wanted!r}; say `pgbus run {name}:BUS`, or assign `bus = pgbus.create()` in it")
    if not isinstance(bus, pgbus.Bus):
        fail(f"{wanted!r} in module {name!r} is of type {type(bus).__name__}, not a bus made by `pgbus.create()`")
    bus.client.adopt_start_hooks(module)
    return bus


def _print_banner(config: Config, *, module: str) -> None:
    facts = Table.grid(padding=(0, 2))
    facts.add_row(Text("pgbus", style="bold"), Text(f"{version('pgbus')}, {module} as {config.process_name}"))
    facts.add_row("database", Text("from PG* variables" if config.dsn is None else hide_password(config.dsn)))
    facts.add_row("namespace", Text(config.namespace))
    console(sys.stderr).print(facts)


async def _work(bus: pgbus.Bus, *, only: tuple[str, ...], skip: tuple[str, ...]) -> None:
    from pgbus.worker import Worker  # the engine, which the other commands do without

    async with Admin.connect(bus.config):
        pass  # says in one line that the database is not there, or not upgraded
    worker = Worker(bus, only=only or None, skip=skip or None)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.request_stop)
    if SUPERVISED in os.environ:
        _watch_supervisor(loop, worker.request_stop)
    async with bus:
        await worker.run()


def _watch_supervisor(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    """Our stdin is a pipe that the supervisor holds open: its end means that the supervisor is gone."""

    def ended() -> None:
        loop.remove_reader(0)
        stop()

    loop.add_reader(0, ended)
