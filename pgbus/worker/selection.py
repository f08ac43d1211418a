"""The part of a bus's declarations that one worker runs: by its features, and by the names that it was given."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pgbus.listeners.listener import Listener
from pgbus.registry import Registry, Work
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

    def _work(self) -> Work:
        return self._registry.work(only=self._only, skip=self._skip)

    def check(self) -> None:
        """Raise ConfigurationError for a name in `only` or `skip` that is not declared."""
        self._work()

    @property
    def listeners(self) -> list[Listener]:
        """The listeners that this worker runs."""
        return list(self._work().listeners)

    @property
    def procedures(self) -> list[Procedure]:
        """The procedures that this worker serves."""
        return list(self._work().procedures)

    @property
    def schedules(self) -> list[Schedule]:
        """The schedules whose runs this worker claims."""
        return list(self._work().schedules)

    @property
    def background(self) -> list[Background]:
        """The background tasks that this worker runs; those of a worker without tasks are closed."""
        if "tasks" not in self._registry.features:
            self._registry.schedules.close_background()
        return list(self._work().background)

    def watch(self, watcher: Callable[[str], object]) -> Callable[[], None]:
        """Call `watcher` with the name of what is declared from now on, in any thread.

        Returns a function that ends it.
        """
        return self._registry.watch(watcher)
