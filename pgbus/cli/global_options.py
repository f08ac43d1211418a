"""The options that every command takes, and the configuration with them, in this process and its children."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click
from click import get_current_context

if TYPE_CHECKING:
    from pgbus.config import Config

_Command = TypeVar("_Command", bound=Callable[..., Any])

_OPTIONS = {
    "config": "Configuration file.",
    "namespace": "Schema of the bus.",
    "dsn": "Database, as postgresql://...",
}


def database_options(command: _Command) -> _Command:
    """`--dsn`, `--namespace` and `--config`, before the command's name or after it; `load_config` reads them."""
    for name, help in _OPTIONS.items():  # noqa: A001
        command = click.option(f"--{name}", help=help, callback=_remember, expose_value=False)(command)
    return command


def _remember(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    arguments: dict[str, str] = context.ensure_object(dict)
    if value is not None and parameter.name is not None:
        arguments[parameter.name] = value


def load_config(**arguments: object) -> Config:
    """The configuration, with the given arguments and the options that `database_options` remembers."""
    from pgbus.config import Config  # imported on demand: `pgbus --help` reads no configuration

    remembered = dict(get_current_context().ensure_object(dict))
    file = remembered.pop("config", None)
    return Config.load({**remembered, **arguments}, file=file)


_TOLD = "pgbus.told"
_MARK = "PGBUS_COMMAND_LINE"


def pass_on(**arguments: object) -> None:
    """Pass options to a module's `pgbus.create()`, over which they have priority: as variables, because a DSN is a
    secret.
    """
    context = get_current_context()
    names = [name for name in os.environ.get(_MARK, "").split(",") if name]
    for name, value in {**context.ensure_object(dict), **arguments}.items():
        if value is not None:
            # Unresolved: each process fills the placeholders in a name itself. A child may run in another directory.
            text = str(Path(str(value)).absolute()) if name == "config" else str(value)
            os.environ[_variable(name)] = text
            names.append(name)
    context.meta[_TOLD] = {name: os.environ[_variable(name)] for name in names}


def told() -> dict[str, str]:
    """Return the options that were passed to `pass_on`, in this process or in the process that started it."""
    found: dict[str, str] = get_current_context().meta.get(_TOLD, {})
    return found


def tell_children() -> None:
    """Tell child processes which of the variables were options."""
    os.environ[_MARK] = ",".join(told())


def _variable(name: str) -> str:
    return f"PGBUS_{name.upper()}"
