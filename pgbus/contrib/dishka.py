"""Dishka: a container for each attempt of a handler, and handlers that take from it what their annotations say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from dishka import AsyncContainer, Container
from dishka.integrations.base import wrap_injection

from pgbus.bus import Bus
from pgbus.errors import ConfigurationError
from pgbus.handlers.signatures import describe, is_async

H = TypeVar("H", bound=Callable[..., Any])

_async_scope: ContextVar[AsyncContainer] = ContextVar("pgbus async scope of dishka")
_scope: ContextVar[Container] = ContextVar("pgbus scope of dishka")


def setup_dishka(container: AsyncContainer | Container, bus: Bus) -> None:
    """Open a request scope of the container around each attempt of a listener's handler, and each call of a procedure.

    An AsyncContainer serves async handlers, a Container plain ones; a bus may have one of each. The scope's context has
    the `pgbus.Context` or `pgbus.CallContext`, whose `connection` is the open one in a transactional handler.
    """
    if isinstance(container, AsyncContainer):

        async def around(context: object, call_next: Callable[[], Awaitable[Any]]) -> Any:
            async with container(context={type(context): context}) as scope:
                with _as_current(_async_scope, scope):
                    return await call_next()

        bus.middleware(around)
    else:

        def around_plain(context: object, call_next: Callable[[], Any]) -> Any:
            with container(context={type(context): context}) as scope, _as_current(_scope, scope):
                return call_next()

        bus.middleware(around_plain)


def inject(handler: H) -> H:
    """Decorator, below that of the bus: parameters annotated `FromDishka[...]` come from the attempt's container.

    An attempt raises ConfigurationError where `setup_dishka` was not called with a container of the handler's kind.
    """
    current: ContextVar[Any] = _async_scope if is_async(handler) else _scope

    def get_container(_: object, __: object) -> Any:
        try:
            return current.get()
        except LookupError:
            kind = "an AsyncContainer" if is_async(handler) else "a Container"
            raise ConfigurationError(
                f"{describe(handler)} takes something from dishka: call setup_dishka with {kind} and the bus"
            ) from None

    wrap: Any = wrap_injection  # its overloads tell async handlers from plain ones, which a flag does not
    injected: H = wrap(func=handler, container_getter=get_container, is_async=is_async(handler))
    return injected


@contextmanager
def _as_current(current: ContextVar[Any], scope: object) -> Iterator[None]:
    token = current.set(scope)
    try:
        yield
    finally:
        current.reset(token)
