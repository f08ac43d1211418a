"""The part of a bus's declarations that one worker runs: by its features, and by the names that it was given."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pgbus.registry import Registry, Work


class Selection:
    """The selection of a worker from a registry: declarations that `only` names (default: all) and `skip` does not."""

    def __init__(
        self, registry: Registry, *, only: Sequence[str] | None = None, skip: Sequence[str] | None = None
    ) -> None:
        self._registry = registry
        self._only = only
        self._skip = skip

    def work(self) -> Work:
        """Return the current work, including declarations made while the worker runs.

        Raises ConfigurationError for a name in `only` or `skip` that is not declared.
        """
        if "tasks" not in self._registry.features:
            self._registry.schedules.close_background()  # else Python warns of coroutines that nobody awaited
        return self._registry.work(only=self._only, skip=self._skip)

    def watch(self, watcher: Callable[[str], object]) -> Callable[[], None]:
        """Call `watcher` with the name of each declaration from now on, in the thread that declares it.

        Returns a function that ends it.
        """
        return self._registry.watch(watcher)
