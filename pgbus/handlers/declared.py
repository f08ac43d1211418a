"""Declarations as a worker takes them: those that were chosen, and what is added while it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Watched(Generic[T]):
    """What may be added to while someone watches."""

    def __init__(self) -> None:
        self._watchers: list[Callable[[T], object]] = []

    def watch(self, watcher: Callable[[T], object]) -> Callable[[], None]:
        """Call `watcher` with whatever is added from now on; returns a function that ends it."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def _tell(self, added: T) -> None:
        for watcher in tuple(self._watchers):
            watcher(added)


def is_chosen(name: str, *, only: Sequence[str] | None, skip: Sequence[str] | None) -> bool:
    """Whether a declaration is named in `only` (default: all are) and not in `skip`."""
    return (only is None or name in only) and name not in (skip or ())
