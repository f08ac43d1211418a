"""Loads the bus of a command: a name in a module that is imported from the working directory."""

from __future__ import annotations

import importlib
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from click import get_current_context

import pgbus
from pgbus import bus_module as modules
from pgbus.cli.exits import FAILED
from pgbus.cli.global_options import told
from pgbus.config import Config, last_word
from pgbus.errors import FailedToImportBusModule


def load_bus(target: str) -> pgbus.Bus:
    """Return the bus at MODULE or MODULE:BUS; ends the program with the traceback if the module raises.

    A worker that starts calls the module's `before_server_start` and `on_start`. Raises FailedToImportBusModule if
    there is no such module, NoBusFoundInBusModule if it has no such bus, and ConfigurationError if a declaration in it
    is refused.
    """
    with suppress(FileNotFoundError):  # the working directory was removed: the module may be on another path
        sys.path.insert(0, str(Path.cwd()))
    try:
        with last_word(told()):
            module = pgbus.import_bus_module(target)
            bus = pgbus.get_bus(target)
    except FailedToImportBusModule as error:
        if error.__cause__ is None:
            raise
        _print_traceback(error.__cause__)
        get_current_context().exit(FAILED)
    bus.client.adopt_start_hooks(module)
    return bus


def create_bus(config: Config) -> pgbus.Bus:
    """Return a bus without a module, in the configured database."""
    return pgbus.create(config=config)


def _print_traceback(error: BaseException) -> None:
    """Return the traceback from the module's first line on, without the frames of the import."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and _imports(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    traceback.print_exception(error.with_traceback(trace))


def _imports(filename: str) -> bool:
    return filename in (modules.__file__, importlib.__file__) or filename.startswith("<frozen importlib")
