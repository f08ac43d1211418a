"""Shared state of the parts of a running listener: the listener, its row, and its worker's state."""

from __future__ import annotations

from typing import Protocol

import msgspec

from pgbus.config import Config
from pgbus.database.store import Store
from pgbus.listeners.listener import Listener
from pgbus.telemetry import Telemetry


class Standing(Protocol):
    """The state of a worker relative to the other workers."""

    @property
    def has_others(self) -> bool:
        """Whether other workers live, which may be idle."""
        ...

    def claimant(self) -> int:
        """The id to claim under; 0 while the worker's session is away, and with it the lock that says that it lives."""
        ...

    def was_cut_off(self, since: float) -> bool:
        """Whether the session is lost, or was at that time (of the engine's clock) or later."""
        ...


class RunningListener(msgspec.Struct, frozen=True, kw_only=True):
    """A registered listener in a worker. `id` is that of its row; `store` runs statements on the engine's pool."""

    listener: Listener
    id: int
    store: Store
    config: Config
    telemetry: Telemetry
    standing: Standing

    @property
    def name(self) -> str:
        """The `listener_name` of the listener."""
        return self.listener.name

    @property
    def worker(self) -> str:
        """The name of the worker's process, for the history."""
        return self.config.process_name

    @property
    def slots(self) -> int:
        """How many of its events are handled at once; those of a plain function need a thread each."""
        listener = self.listener
        if listener.signature.is_async:
            return listener.concurrency
        return min(listener.concurrency, self.config.listener_threads)
