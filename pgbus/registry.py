"""All declarations of this process, and the selection for a worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pgbus.config.features import FEATURES
from pgbus.errors import ConfigurationError, DuplicateListenerName
from pgbus.handlers.declared import Declared
from pgbus.handlers.hooks import Hooks
from pgbus.handlers.middleware import Middleware
from pgbus.handlers.signatures import Wanted
from pgbus.listeners.listener import Listener
from pgbus.rpc.procedures import Procedure, Procedures
from pgbus.schedules.schedule import Background, Schedule, Schedules


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The work of a worker: the declarations selected for it, of the kinds that are among its features."""

    listeners: Sequence[Listener] = ()
    procedures: Sequence[Procedure] = ()
    schedules: Sequence[Schedule] = ()
    background: Sequence[Background] = ()

    @property
    def tasks(self) -> dict[str, str]:
        """When each task runs, by its name."""
        on_schedule = {one.name: str(one.rule) for one in self.schedules}
        return on_schedule | {one.name: "in the background" for one in self.background}


class Registry:
    """The declarations of one bus, and the hooks and middleware around their handlers."""

    def __init__(self) -> None:
        self.listeners: Declared[Listener] = Declared(duplicate=DuplicateListenerName)
        self.procedures = Procedures()
        self.schedules = Schedules()
        self.hooks = Hooks()
        self.middleware = Middleware()
        self.features = frozenset(FEATURES)
        """What workers do."""
        self.transaction: Wanted | None = None
        """What a transactional handler that takes no connection has its transaction on."""

    def work(self, *, only: Sequence[str] | None = None, skip: Sequence[str] | None = None) -> Work:
        """Return the work for the declarations named in `only` (default: all) but not in `skip`.

        Raises ConfigurationError for a name that is not declared.
        """
        self._refuse_unknown([*(only or ()), *(skip or ())])
        does_tasks = "tasks" in self.features
        return Work(
            listeners=self.listeners.select(only=only, skip=skip) if "events" in self.features else (),
            procedures=self.procedures.select(only=only, skip=skip) if "rpcs" in self.features else (),
            schedules=self.schedules.select(only=only, skip=skip) if does_tasks else (),
            background=self.schedules.select_background(only=only, skip=skip) if does_tasks else (),
        )

    def watch(self, watcher: Callable[[str], object]) -> Callable[[], None]:
        """Call `watcher` with the name of each declaration from now on, in the thread that declares it.

        Returns a function that ends it.
        """
        ends = [declared.watch(watcher) for declared in (self.listeners, self.procedures, self.schedules)]

        def end() -> None:
            for end_one in ends:
                end_one()

        return end

    def _refuse_unknown(self, names: Sequence[str]) -> None:
        declared = [*self.listeners.names, *self.procedures.names, *self.schedules.names]
        for name in names:
            if name not in declared:
                known = ", ".join(declared) or "none"
                raise ConfigurationError(
                    f"there is no listener, procedure or task named {name!r} here; declared are: {known}"
                )
