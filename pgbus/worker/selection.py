"""The part of a bus's declarations that one worker runs: by its features, and by the names that it was given."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pgbus.listeners.listener import Listener
from pgbus.registry import Registry
from pgbus.rpc.procedures import Procedure
from pgbus.schedules.schedule import Background, Schedule


class Selection:
    """What a worker runs of a registry: what `only` names (default: everything) and `skip` does not.

    It is asked again whenever something is declared, so it also has what is declared while the worker runs.
    """

    def __init__(
        self, registry: Registry, *, only: Sequence[str] | None = None, skip: Sequence[str] | None = None
    ) -> None:
        self._registry = registry
        self._only = only
        self._skip = skip

    def check(self) -> None:
        """Raise ConfigurationError for a name in `only` or `skip` that is not declared."""
        self._registry.select(only=self._only, skip=self._skip)

    @property
    def listeners(self) -> list[Listener]:
        """The listeners that this worker runs."""
        return self._registry.select(only=self._only, skip=self._skip) if self._does("events") else []

    @property
    def procedures(self) -> list[Procedure]:
        """The procedures that this worker serves."""
        return self._registry.procedures.select(only=self._only, skip=self._skip) if self._does("rpcs") else []

    @property
    def schedules(self) -> list[Schedule]:
        """The schedules whose runs this worker claims."""
        return self._registry.schedules.select(only=self._only, skip=self._skip) if self._does("tasks") else []

    @property
    def background(self) -> list[Background]:
        """The background tasks that this worker runs; those of a worker without tasks are closed."""
        schedules = self._registry.schedules
        if not self._does("tasks"):
            schedules.close_background()
            return []
        return schedules.select_background(only=self._only, skip=self._skip)

    def watch(self, watcher: Callable[[object], object]) -> Callable[[], None]:
        """Call `watcher` with whatever is declared from now on, in any thread; returns a function that ends it."""
        parts = (self._registry, self._registry.procedures, self._registry.schedules)
        ends = [part.watch(watcher) for part in parts]

        def unwatch() -> None:
            for end in ends:
                end()

        return unwatch

    def _does(self, feature: str) -> bool:
        return feature in self._registry.features
