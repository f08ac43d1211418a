"""What this process has declared: listeners, procedures, schedules, middleware."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pgbus.config.features import FEATURES
from pgbus.errors import ConfigurationError, DuplicateListenerName
from pgbus.handlers.declared import Watched, is_chosen
from pgbus.handlers.middleware import Middleware
from pgbus.listeners.listener import Listener
from pgbus.rpc.procedures import Procedures
from pgbus.schedules.schedule import Schedules


class Registry(Watched[Listener]):
    """The listeners of one bus, by name, in the order of their declaration."""

    def __init__(self) -> None:
        super().__init__()
        self._listeners: dict[str, Listener] = {}
        self.procedures = Procedures()
        self.middleware = Middleware()
        self.schedules = Schedules()
        self.features = frozenset(FEATURES)
        """What workers do."""

    def add(self, listener: Listener) -> None:
        """Add a listener, also to workers that run already; raises DuplicateListenerName."""
        if listener.name in self._listeners:
            raise DuplicateListenerName(listener.name)
        self._listeners[listener.name] = listener
        self._tell(listener)

    def select(self, *, only: Sequence[str] | None = None, skip: Sequence[str] | None = None) -> list[Listener]:
        """The listeners named in `only` (default: all) but not in `skip`; raises ConfigurationError for a typo.

        The names may be those of procedures and tasks, too.
        """
        names = [*self._listeners, *(procedure.name for procedure in self.procedures), *self.schedules.names]
        for name in (*(only or ()), *(skip or ())):
            if name not in names:
                known = ", ".join(names) or "none"
                raise ConfigurationError(
                    f"there is no listener, procedure or task named {name!r} here; declared are: {known}"
                )
        return [one for one in self._listeners.values() if is_chosen(one.name, only=only, skip=skip)]

    def __iter__(self) -> Iterator[Listener]:
        return iter(tuple(self._listeners.values()))

    def __len__(self) -> int:
        return len(self._listeners)

    def __contains__(self, name: object) -> bool:
        return name in self._listeners

    def get(self, name: str) -> Listener | None:
        """The listener of that name, if there is one."""
        return self._listeners.get(name)
