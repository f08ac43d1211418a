"""The base class of plugins."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Iterable, Sequence

from pgbus.api import Api
from pgbus.config import Config
from pgbus.errors import ConfigurationError
from pgbus.telemetry import Instrument

logger = logging.getLogger("pgbus")


class Plugin:
    """Base of plugins. A plugin defines any of the following methods, each async or plain.

    - `before_worker_start(client)`, `after_worker_stopped(client)`
    - `before_event_sent`, `after_event_sent`, `before_event_execution`, `after_event_execution`, with `client` and
      `event_message`
    - `before_rpc_call`, `before_rpc_execution`, with `client` and `rpc_message`; `after_rpc_call` and
      `after_rpc_execution`, which also get `result_message`
    - `exception(e)`: a worker ends with this error

    Arguments come by name, and only those that the method has parameters for. An error of a method is raised where the
    event or the call was sent or executed; errors of `exception` are logged.
    """

    priority: int = 1000
    """Plugins with a smaller number are called earlier."""

    apis: Sequence[Api] = ()
    """APIs that the plugin speaks for: the bus registers them, so that the plugin may fire their events."""

    instruments: Sequence[Instrument] = ()
    """Instruments that surround what the bus does."""

    @classmethod
    def from_config(cls, *, config: Config) -> Plugin:  # noqa: ARG003 - for those that want it
        """Make the plugin. Further parameters are its options, each with an annotation and a default.

        They are set in `plugins.{name}` of the configuration, where there is also `enabled`, which is false unless set.
        Options are read into their annotations before; what else is wrong with them may be a ConfigurationError.
        """
        return cls()


def in_order(plugins: Iterable[Plugin]) -> list[Plugin]:
    """Plugins in the order of their calls; raises ConfigurationError for an object that is not a plugin."""
    found = list(plugins)
    for plugin in found:
        if not isinstance(plugin, Plugin):
            raise ConfigurationError(f"{plugin!r} is not a plugin: give instances of classes derived from pgbus.Plugin")
    return sorted(found, key=lambda plugin: plugin.priority)


async def tell_plugins(plugins: Sequence[Plugin], error: Exception) -> None:
    """Call the plugins' `exception` with the error that ends a worker; an error of a plugin is logged."""
    for plugin in plugins:
        told = getattr(plugin, "exception", None)
        if told is None:
            continue
        try:
            if inspect.iscoroutinefunction(told):
                await told(e=error)
            else:
                await asyncio.to_thread(told, e=error)
        except Exception:
            logger.exception("plugin %s failed on an exception", type(plugin).__qualname__)
