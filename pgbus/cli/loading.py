"""The bus that `pgbus run` is told to run: a name in a module, imported from the working directory."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType

from click import get_current_context

import pgbus
from pgbus.cli.exits import FAILED, fail
from pgbus.errors import ConfigurationError


def load_bus(target: str) -> pgbus.Bus:
    """The bus at MODULE or MODULE:BUS; ends the program with one line if there is none.

    The module's `before_server_start` and `on_start` will be called when a worker starts.
    Raises ConfigurationError if that is what declaring a listener or an event class in there raised.
    """
    name, _, attribute = target.partition(":")
    wanted = attribute or "bus"
    module = _import(name)
    bus = getattr(module, wanted, None)
    if bus is None:
        fail(f"module {name!r} has no {wanted!r}; say `pgbus run {name}:BUS`, or assign `bus = pgbus.create()` in it")
    if not isinstance(bus, pgbus.Bus):
        fail(f"{wanted!r} in module {name!r} is of type {type(bus).__name__}, not a bus made by `pgbus.create()`")
    bus.client.adopt_start_hooks(module)
    return bus


def _import(name: str) -> ModuleType:
    if name.endswith(".py") or not all(part.isidentifier() for part in name.split(".")):
        fail(f"{name!r} is not the name of a module, such as `bus` or `shop.bus`")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ConfigurationError:
        raise
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            fail(f"there is no module {name!r} in {Path.cwd()}; say `pgbus run MODULE:BUS` or set PGBUS_MODULE")
        _print_traceback(error)
        get_current_context().exit(FAILED)


def _print_traceback(error: Exception) -> None:
    """The traceback from the module's own first line on: how it came to be imported helps nobody."""
    trace = error.__traceback__
    while trace is not None and _imports(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    traceback.print_exception(error.with_traceback(trace))


def _imports(filename: str) -> bool:
    return filename in (__file__, importlib.__file__) or filename.startswith("<frozen importlib")
