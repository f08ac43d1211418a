"""The observers of a bus, for what has happened, and its instruments, around what is under way.

An observer is called on the worker's event loop, right after the fact, and must be quick. Its errors are logged.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import TypeAlias

from pgbus.aio.returned import refuse_awaitable
from pgbus.errors import ConfigurationError
from pgbus.telemetry.happenings import Happening
from pgbus.telemetry.instruments import Instrument, Instruments

logger = logging.getLogger("pgbus")

Observer: TypeAlias = Callable[[Happening], None]


class Telemetry:
    """The observers and instruments of one bus."""

    def __init__(self, instruments: Instruments | None = None) -> None:
        self._observers: list[Observer] = []
        self._instruments = Instruments() if instruments is None else instruments

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Call `observer`, a plain function, with everything that happens from now on; returns a function that ends it.

        Raises ConfigurationError for an async one, which nobody would await.
        """
        if inspect.iscoroutinefunction(observer) or inspect.isgeneratorfunction(observer):
            raise ConfigurationError(f"an observer is a plain function, called on the event loop, and not {observer!r}")
        self._observers.append(observer)
        return lambda: self._observers.remove(observer)

    def instrument(self, instrument: Instrument) -> None:
        """Surround all operations of the bus from now on with this instrument, inside those that were added before."""
        self._instruments.add(instrument)

    def emit(self, happening: Happening) -> None:
        """Pass the record to every observer."""
        for observer in tuple(self._observers):
            try:
                refuse_awaitable(observer(happening), f"the observer {observer!r}", "and nobody awaits it")
            except Exception:
                logger.exception("an observer failed on %r", happening)
