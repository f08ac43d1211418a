"""One collection for each kind of declaration: listeners, procedures and schedules, by name.

A worker selects declarations by name, and gets those that are added while it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar


class Named(Protocol):
    """A declaration; its name is unique among those of its kind."""

    @property
    def name(self) -> str:
        """The name under which it is chosen, and known in the database."""
        ...


T = TypeVar("T", bound=Named)


class Declared(Generic[T]):
    """Declarations of one kind, in their order. `duplicate` makes the error for a name that is taken."""

    def __init__(self, *, duplicate: Callable[[str], Exception]) -> None:
        self._duplicate = duplicate
        self._by_name: dict[str, T] = {}
        self._watchers: list[Callable[[str], object]] = []

    def add(self, declaration: T) -> None:
        """Add a declaration, also to workers that run already; raises the error for a name that is taken."""
        if declaration.name in self._by_name:
            raise self._duplicate(declaration.name)
        self._by_name[declaration.name] = declaration
        self._tell(declaration.name)

    def get(self, name: str) -> T | None:
        """The declaration of that name, if there is one."""
        return self._by_name.get(name)

    def select(self, *, only: Sequence[str] | None = None, skip: Sequence[str] | None = None) -> list[T]:
        """The declarations named in `only` (default: all) but not in `skip`."""
        return [one for one in self if is_chosen(one.name, only=only, skip=skip)]

    @property
    def names(self) -> list[str]:
        """The names of all of them."""
        return list(self._by_name)

    def watch(self, watcher: Callable[[str], object]) -> Callable[[], None]:
        """Call `watcher` with the name of each declaration added from now on; returns a function that ends it.

        It is called in the thread that declares.
        """
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def _tell(self, name: str) -> None:
        for watcher in tuple(self._watchers):
            watcher(name)

    def __iter__(self) -> Iterator[T]:
        return iter(tuple(self._by_name.values()))

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name


def is_chosen(name: str, *, only: Sequence[str] | None, skip: Sequence[str] | None) -> bool:
    """Whether a declaration is named in `only` (default: all are) and not in `skip`."""
    return (only is None or name in only) and name not in (skip or ())
