"""How `Bus.listener` looks to a type checker: a handler's event is of the class that the listener is declared for.

Where a listener is declared for one class, its handler takes that class, a parent of it, or an EventMessage. What it
takes of several classes, of topics and of patterns is judged when it is declared, and not by the type checker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from pgbus.messages import EventMessage

E = TypeVar("E")
E_contra = TypeVar("E_contra", contravariant=True)
First = TypeVar("First")
P = ParamSpec("P")
R = TypeVar("R")
# A list may stand second, where a Context or a connection is first.
Batch = TypeVar("Batch", bound=Callable[Concatenate[list[Any], ...], Any])
BatchSecond = TypeVar("BatchSecond", bound=Callable[Concatenate[Any, list[Any], ...], Any])


class TakesOne(Protocol[E]):
    """Decorates a function that takes an event; as its second parameter, where a Context or a connection is first."""

    @overload
    def __call__(self, handler: Callable[Concatenate[E, P], R], /) -> Callable[Concatenate[E, P], R]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap] # an EventMessage may be first, too
        self, handler: Callable[Concatenate[First, E, P], R], /
    ) -> Callable[Concatenate[First, E, P], R]: ...
    @overload
    def __call__(
        self, handler: Callable[Concatenate[EventMessage, P], R], /
    ) -> Callable[Concatenate[EventMessage, P], R]: ...


class TakesMany(Protocol):
    """Decorates a function that takes a list of events."""

    @overload
    def __call__(self, handler: Batch, /) -> Batch: ...
    @overload
    def __call__(self, handler: BatchSecond, /) -> BatchSecond: ...
