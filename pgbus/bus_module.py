"""Bus modules: the Python module that makes a service's bus, imported by its name."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from pgbus.bus import Bus
from pgbus.config import Config
from pgbus.errors import ConfigurationError, FailedToImportBusModule, NoBusFoundInBusModule


def import_bus_module(name: str | None = None) -> ModuleType:
    """Import a bus module; default: the setting `module`, which is `PGBUS_MODULE`, or else `bus`.

    Both `shop.events` and `shop.events:my_bus` name the module `shop.events`, which is searched on Python's path.
    Raises FailedToImportBusModule (the module's own error is its `__cause__`), NoBusFoundInBusModule, and
    ConfigurationError if a listener, a procedure or an event class is declared wrongly in it.
    """
    return _load(name)[0]


def get_bus(module: str | None = None) -> Bus:
    """Return the bus of a bus module: its attribute `bus`, or the named one, as in `shop.events:my_bus`.

    Imports the module as `import_bus_module` does, and raises what that does.
    """
    return _load(module)[1]


def _load(text: str | None) -> tuple[ModuleType, Bus]:
    name, attribute = _target(text)
    module = _import(name)
    bus = getattr(module, attribute, None)
    if bus is None:
        raise NoBusFoundInBusModule(
            f"module {name!r} has no {attribute!r}; name the bus, as in `{name}:BUS`, or assign "
            f"`{attribute} = pgbus.create()` in it"
        )
    if not isinstance(bus, Bus):
        raise NoBusFoundInBusModule(
            f"{attribute!r} in module {name!r} is of type {type(bus).__name__}, not a bus made by `pgbus.create()`"
        )
    return module, bus


def _target(text: str | None) -> tuple[str, str]:
    """The names of the module and of the bus in it."""
    name, _, attribute = (text or Config.load().module).partition(":")
    return name, attribute or "bus"


def _import(name: str) -> ModuleType:
    if name.endswith(".py") or not all(part.isidentifier() for part in name.split(".")):
        raise FailedToImportBusModule(f"{name!r} is not the name of a module, such as `bus` or `shop.bus`")
    try:
        return importlib.import_module(name)
    except ConfigurationError:
        raise
    except ModuleNotFoundError as error:
        if f"{name}.".startswith(f"{error.name}."):
            raise FailedToImportBusModule(
                f"there is no module {name!r} in {_here()}, nor elsewhere on Python's path; name another one: "
                "MODULE:BUS, or PGBUS_MODULE"
            ) from None
        raise FailedToImportBusModule(f"module {name!r} cannot be imported: {error}") from error
    except Exception as error:
        raise FailedToImportBusModule(f"module {name!r} cannot be imported: {type(error).__name__}: {error}") from error


def _here() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return "the working directory, which was removed"
