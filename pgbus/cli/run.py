"""`pgbus run`: a worker for the bus of a module, in this process or in several."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import get_args

import rich_click as click
from click import get_current_context

import pgbus
from pgbus.admin import Admin
from pgbus.bus import make_worker
from pgbus.cli.banner import announce
from pgbus.cli.extras import import_extra
from pgbus.cli.global_options import database_options, load_config, pass_on, tell_children
from pgbus.cli.loading import load_bus
from pgbus.cli.logs import configure_logging
from pgbus.cli.loops import Loop, open_runner
from pgbus.cli.monitoring import Address, monitoring
from pgbus.cli.options import Count
from pgbus.cli.reloading import run_reloading
from pgbus.cli.signals import heed_signals
from pgbus.cli.supervisor import supervise, watch_supervisor
from pgbus.config import Config, LogFormat, LogLevel
from pgbus.config.features import FEATURES, read_features
from pgbus.database import migrate
from pgbus.worker.worker import Worker

_LINGER = 1.0  # seconds


@click.command()
@click.argument("module", required=False, metavar="[MODULE[:BUS]]")
@database_options
@click.option("--processes", type=Count(min=1), default=1, show_default=True, help="Run this many workers.")
@click.option(
    "--listener",
    "only",
    metavar="NAME",
    multiple=True,
    help="Run only this listener, procedure or task. Repeatable.",
)
@click.option(
    "--only", "-o", "features", metavar="FEATURES", multiple=True, help="Run only these features: events, rpcs, tasks."
)
@click.option(
    "--skip",
    "-k",
    metavar="NAME",
    multiple=True,
    help="Do not run this listener, procedure, task or feature (events, rpcs, tasks). Repeatable.",
)
@click.option(
    "--loop",
    type=click.Choice(get_args(Loop)),
    default="auto",
    show_default=True,
    help="Event loop to run in; auto: uvloop if it is installed.",
)
@click.option(
    "--http",
    type=Address.read,
    metavar="HOST:PORT",
    help="Serve /metrics, /livez, /readyz and /wake there; each of several workers on a port of its own, PORT and up.",
)
@click.option(
    "--from",
    "sources",
    metavar="URL",
    multiple=True,
    envvar="PGBUS_RELAY_FROM",
    help="Publish the messages from there, as `pgbus relay --from` does (PGBUS_RELAY_FROM). Repeatable.",
)
@click.option("--reload", "wants_reload", is_flag=True, help="Restart when a source file changes.")
@click.option("--migrate", "wants_upgrade", is_flag=True, help="Upgrade the database's schema first.")
@click.option("--service-name", "-s", help="Service that the process belongs to; may contain {placeholders}.")
@click.option(
    "--process-name", "-p", help="Name of the process; may contain {placeholders}. Default: {hostname}-{pid}."
)
@click.option(
    "--schema",
    "-m",
    metavar="FILE_OR_DIR",
    help="Read schemas of other services from the output of `schema dump`; - is stdin.",
)
@click.option("--log-level", type=click.Choice(get_args(LogLevel)), help="Lowest level of log records; default: info.")
@click.option("--log-format", type=click.Choice(get_args(LogFormat)), help="Format of log records; default: text.")
def run(
    *,
    module: str | None,
    processes: int,
    only: tuple[str, ...],
    features: tuple[str, ...],
    skip: tuple[str, ...],
    loop: Loop,
    http: Address | None,
    sources: tuple[str, ...],
    wants_reload: bool,
    wants_upgrade: bool,
    schema: str | None,
    service_name: str | None,
    process_name: str | None,
    log_level: str | None,
    log_format: str | None,
) -> None:
    """Run a bus's listeners, procedures and tasks until SIGTERM, Ctrl-C or SIGHUP.

    These signals let running handlers finish. A second SIGTERM or Ctrl-C does not wait.

    MODULE is imported from the working directory (default: PGBUS_MODULE, or `bus`); BUS is the bus's name in it
    (default: `bus`).
    """
    arguments = {
        "module": module,
        "service_name": service_name,
        "process_name": process_name,
        "log_level": log_level,
        "log_format": log_format,
    }
    config = load_config(**arguments)
    pass_on(**arguments)
    if wants_reload or processes > 1:
        tell_children()
    configure_logging(level=config.log_level, format=config.log_format)
    choice = Choice.read(features, skip)
    if schema == "-" and (wants_reload or processes > 1):
        raise click.UsageError("only one process can read stdin: write the schemas to a file")
    command = _command(only, features, skip, loop=loop, http=http, wants_upgrade=wants_upgrade, schema=schema)
    if sources:
        os.environ["PGBUS_RELAY_FROM"] = " ".join(sources)  # for the processes that run: an address may be a secret
    if wants_reload:
        run_reloading([*command, "--processes", str(processes)])
    elif processes > 1:
        get_current_context().exit(supervise(command, processes=processes))
    else:
        _run_here(
            config, choice, only=only, loop=loop, http=http, sources=sources, wants_upgrade=wants_upgrade, schema=schema
        )


def _command(
    only: tuple[str, ...],
    features: tuple[str, ...],
    skip: tuple[str, ...],
    *,
    loop: Loop,
    http: Address | None,
    wants_upgrade: bool,
    schema: str | None,
) -> list[str]:
    options = [f"--listener={name}" for name in only] + [f"--skip={name}" for name in skip]
    options += [f"--only={names}" for names in features] + (["--migrate"] if wants_upgrade else [])
    options += [f"--loop={loop}"] + ([f"--http={http}"] if http else []) + ([f"--schema={schema}"] if schema else [])
    return [sys.executable, "-m", "pgbus.cli", "run", *options]


@dataclass(frozen=True, slots=True)
class Choice:
    """The values of `--only` and `--skip`: features to run, if `--only` names any; features and names to leave out."""

    features: frozenset[str] | None
    without: frozenset[str]
    skip: tuple[str, ...]

    @classmethod
    def read(cls, only: tuple[str, ...], skip: tuple[str, ...]) -> Choice:
        """Read the options; in `--skip`, the name of a feature means the feature. Raises UnsupportedUse."""
        lists = [names for names in skip if {name.strip() for name in names.split(",")} <= set(FEATURES)]
        return cls(
            features=read_features(",".join(only)) if only else None,
            without=read_features(",".join(lists)),
            skip=tuple(name for name in skip if name not in lists),
        )

    def apply(self, bus: pgbus.Bus) -> None:
        """Apply the choice to the bus's workers; without options, the module's own choice stays."""
        bus.client.set_features((bus.features if self.features is None else self.features) - self.without)


def _run_here(
    config: Config,
    choice: Choice,
    *,
    only: tuple[str, ...],
    loop: Loop,
    http: Address | None,
    sources: tuple[str, ...],
    wants_upgrade: bool,
    schema: str | None,
) -> None:
    bus = load_bus(config.module)
    if schema:
        bus.schema.load_local(None if schema == "-" else schema)
    choice.apply(bus)
    skip = choice.skip
    if not bus.client.start_hooks:  # otherwise a start function may still declare it
        bus.registry.work(only=only or None, skip=skip)  # refuses unknown names
    if wants_upgrade:
        migrate.upgrade(bus.config.session_dsn, namespace=bus.config.namespace)
    asyncio.run(_check(bus))

    def say_what_runs() -> None:
        work = bus.registry.work(only=only or None, skip=skip)
        names = [procedure.name for procedure in work.procedures]
        announce(bus.config, work.listeners, names, work.tasks, module=config.module, format=config.log_format)

    bus.client.on_start(say_what_runs)  # the last of the functions that may declare listeners
    with open_runner(loop) as runner:
        runner.run(_work(bus, only=only, skip=skip, http=http, sources=sources))


async def _check(bus: pgbus.Bus) -> None:
    """End the program with one line if the database cannot be reached or is not upgraded."""
    async with Admin.connect(bus.config):
        pass


async def _work(
    bus: pgbus.Bus, *, only: tuple[str, ...], skip: tuple[str, ...], http: Address | None, sources: tuple[str, ...]
) -> None:
    worker = make_worker(bus, only=only or None, skip=skip or None)
    heed_signals(worker.request_stop)
    watch_supervisor(worker.request_stop)
    async with bus, monitoring(bus, http), _receiving(bus, sources, worker):
        await worker.run()
    _end_soon()


def _receiving(bus: pgbus.Bus, sources: tuple[str, ...], worker: Worker) -> AbstractAsyncContextManager[object]:
    """Publish the messages from other systems within the block; nothing without an address."""
    if not sources:
        return nullcontext()
    module = import_extra("pgbus.contrib.relay.running", used_by="--from", extra="relay-kafka")
    receiving: AbstractAsyncContextManager[object] = module.receiving(
        bus.config, sources, ready=worker.ready, stop=worker.request_stop
    )
    return receiving


def _end_soon() -> None:
    """End the program even if a handler blocks its thread forever: its event has been released."""

    def leave() -> None:
        main = threading.main_thread()
        if any(thread.is_alive() and not thread.daemon for thread in threading.enumerate() if thread is not main):
            os._exit(0)

    timer = threading.Timer(_LINGER, leave)
    timer.daemon = True
    timer.start()
