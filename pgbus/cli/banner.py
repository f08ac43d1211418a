"""The output of `pgbus run` when it starts: lines for a terminal, or one log record in JSON."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version

from rich.text import Text

from pgbus.cli.output import console
from pgbus.cli.supervisor import copy_number
from pgbus.config import Config, LogFormat, hide_password
from pgbus.listeners.listener import Listener

_log = logging.getLogger("pgbus")


def announce(
    config: Config,
    listeners: Sequence[Listener],
    procedures: Sequence[str] = (),
    tasks: Mapping[str, str] | None = None,
    *,
    module: str,
    format: LogFormat,  # noqa: A002 - the word for it
) -> None:
    """Print the bus, listeners, procedures and tasks of this process. Of several copies only the first prints them
    all.
    """
    tasks = tasks or {}
    if format == "json":
        _log.info("started", extra=_facts(config, listeners, procedures, tasks, module=module))
    elif copy_number() > 1:
        _log.info(
            "worker %d is %s, process %d, and runs the same as the first",
            copy_number(),
            config.process_name,
            os.getpid(),
        )
    else:
        lines = _lines(config, listeners, procedures, tasks, module=module)
        with suppress(OSError):  # nobody can read it; the worker runs anyway
            console(sys.stderr).print(Text("\n").join(lines), soft_wrap=True)
    if not listeners and not procedures and not tasks:
        _log.warning("no listeners to run: this process only leads when no other does")


def _facts(
    config: Config, listeners: Sequence[Listener], procedures: Sequence[str], tasks: Mapping[str, str], *, module: str
) -> dict[str, object]:
    return {
        "version": version("pgbus"),
        "bus": module,
        "process_name": config.process_name,
        "pid": os.getpid(),
        "database": _database(config),
        "namespace": config.namespace,
        "service": config.service_name,
        "listeners": {listener.name: listener.patterns for listener in listeners},
        "procedures": list(procedures),
        "tasks": dict(tasks),
    }


def _lines(
    config: Config, listeners: Sequence[Listener], procedures: Sequence[str], tasks: Mapping[str, str], *, module: str
) -> Iterator[Text]:
    yield _line("pgbus", f"{version('pgbus')}, runs {module}")
    yield _line("worker", f"{config.process_name}, process {os.getpid()}")
    yield _line("database", _database(config))
    yield _line("namespace", config.namespace)
    yield _line("service", config.service_name or "-")
    longest = max((len(listener.name) for listener in listeners), default=0)
    for row, listener in enumerate(listeners):
        heading = "" if row else "listeners"
        yield _line(heading, f"{listener.name:<{longest}}  ").append(", ".join(listener.patterns), style="dim")
    if not listeners:
        yield _line("listeners", "none")
    for row, procedure in enumerate(procedures):
        yield _line("" if row else "procedures", procedure)
    longest = max(map(len, tasks), default=0)
    for row, (name, rule) in enumerate(tasks.items()):
        yield _line("" if row else "tasks", f"{name:<{longest}}  ").append(rule, style="dim")


def _line(heading: str, value: str) -> Text:
    return Text.assemble((f"{heading:<11}", "bold"), value)


def _database(config: Config) -> str:
    return "from PG* variables" if config.dsn is None else hide_password(config.dsn)
