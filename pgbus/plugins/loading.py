"""Which plugins are installed, and those that the configuration enables.

A plugin is a class that a distribution names under the entry point group `pgbus_plugins`. It is imported if enabled.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from pgbus.config import Config
from pgbus.config.fields import refusal
from pgbus.errors import ConfigurationError
from pgbus.plugins.base import Plugin
from pgbus.plugins.options import is_enabled, options_of, options_schema, read_options

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "pgbus_plugins"

# Our own; named here and not in our distribution's metadata, so that they are there however pgbus was installed.
_OWN = {
    "internal_metrics": "pgbus.plugins.metrics:MetricsPlugin",
    "internal_state": "pgbus.plugins.state:StatePlugin",
    "opentelemetry": "pgbus.contrib.opentelemetry:OpenTelemetryPlugin",
}
# Of these, those that an extra of the same name makes usable, and a module of that extra.
_EXTRAS = {"opentelemetry": "opentelemetry.trace"}


def load_plugins(config: Config) -> list[Plugin]:
    """Make the plugins that the configuration enables.

    Raises ConfigurationError naming the plugin that is not installed, cannot be imported or cannot be made, and the
    option that is wrong.
    """
    if not config.plugins:
        return []
    installed = _installed()
    plugins = []
    for name, given in config.plugins.items():
        label = f"plugins.{name}"
        source = config.sources.get(f"{label}.enabled", "argument")
        if name in _EXTRAS and name not in installed:
            raise refusal(label, source, f"needs an extra that is not installed: pip install 'pgbus[{name}]'")
        if name not in installed:
            raise refusal(label, source, f"no such plugin is installed; there are {', '.join(installed)}")
        if is_enabled(given, label=label, source=source):
            plugins.append(_make(name, installed[name], config))
    return plugins


def plugin_schemas() -> dict[str, Mapping[str, object]]:
    """A JSON Schema of the options of each installed plugin, by name."""
    return {
        name: options_schema(options_of(name, _import(name, point)), plugin_name=name)
        for name, point in _installed().items()
    }


def _installed() -> dict[str, EntryPoint]:
    # Its parsers of e-mail and of archives are a tenth of what a bus costs to import, and few programs have plugins.
    from importlib.metadata import EntryPoint, entry_points

    usable = {name for name, module in _EXTRAS.items() if _exists(module)}
    own = [EntryPoint(name, value, GROUP) for name, value in _OWN.items() if name not in _EXTRAS or name in usable]
    points = {point.name: point for point in (*entry_points(group=GROUP), *own)}
    return dict(sorted(points.items()))


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it would be in
        return False


def _import(name: str, point: EntryPoint) -> type[Plugin]:
    try:
        cls = point.load()
    except Exception as error:
        raise ConfigurationError(
            f"plugin {name!r} cannot be imported from {point.value}: {type(error).__name__}: {error}"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Plugin)):
        raise ConfigurationError(f"plugin {name!r}: {point.value} is not a class derived from pgbus.Plugin")
    return cls


def _make(name: str, point: EntryPoint, config: Config) -> Plugin:
    cls = _import(name, point)
    options = read_options(options_of(name, cls), config.plugins[name], label=f"plugins.{name}", sources=config.sources)
    try:
        plugin = cls.from_config(config=config, **options)
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(f"plugin {name!r} cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(plugin, Plugin):
        raise ConfigurationError(f"plugin {name!r}: from_config of {point.value} returned {plugin!r}, which is none")
    return plugin
