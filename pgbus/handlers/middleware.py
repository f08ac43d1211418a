"""Middleware: functions that wrap the handlers of events and calls, the one that was registered first outermost.

An async one wraps every handler. A plain one wraps plain handlers, in their thread; so it is within all async ones.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

from pgbus.aio.returned import finish, refuse_awaitable
from pgbus.errors import ConfigurationError
from pgbus.handlers.signatures import describe, is_async, why_not_handler

Handle: TypeAlias = Callable[[], Awaitable[Any]]
HandlePlain: TypeAlias = Callable[[], Any]


class Middleware:
    """The functions that wrap the handlers of one bus."""

    def __init__(self) -> None:
        # Tuples that are replaced, and not lists that grow: a call that is being wrapped keeps those that it began
        # with.
        self._of_all: tuple[Callable[..., Awaitable[Any]], ...] = ()
        self._of_plain: tuple[Callable[..., Any], ...] = ()

    def add(self, function: Callable[..., Any]) -> None:
        """Wrap all handlers in it, within those that were added before; raises ConfigurationError for what cannot."""
        _check(function)
        if is_async(function):
            self._of_all = (*self._of_all, function)
        else:
            self._of_plain = (*self._of_plain, function)

    def around(self, context: object, handle: Handle) -> Handle:
        """The call of a handler, wrapped in what is async."""
        for function in reversed(self._of_all):
            handle = partial(_call, function, context, handle)
        return handle

    def around_plain(self, context: object, handle: HandlePlain) -> HandlePlain:
        """The call of a plain handler, wrapped in what is plain."""
        for function in reversed(self._of_plain):
            handle = partial(_call_plain, function, context, handle)
        return handle


async def _call(function: Callable[..., Awaitable[Any]], context: object, handle: Handle) -> Any:
    """Call it; a handler that it has forgotten to await is an error, and not one that it skips."""
    begun: list[Awaitable[Any]] = []

    def call_next() -> Awaitable[Any]:
        begun.append(coroutine := handle())
        return coroutine

    result = await function(context, call_next)
    for coroutine in begun:
        if inspect.iscoroutine(coroutine) and inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
            coroutine.close()
            raise TypeError(f"middleware {describe(function)} has not awaited call_next(): write `await call_next()`")
    return result if result is None else await finish(result, f"middleware {describe(function)}")


def _call_plain(function: Callable[..., Any], context: object, handle: HandlePlain) -> Any:
    return refuse_awaitable(
        function(context, handle),
        f"middleware {describe(function)}",
        "which wraps nothing: make it `async def`, and await call_next()",
    )


def _check(function: Callable[..., Any]) -> None:
    if reason := why_not_handler(function):
        raise ConfigurationError(
            f"middleware is a function that returns `await call_next()`, or `call_next()` if it is plain: {reason}"
        )
    if inspect.iscoroutinefunction(inspect.unwrap(function)) and not is_async(function):
        raise ConfigurationError(
            f"middleware {describe(function)} is a plain function around an async one, and would not wrap async "
            "handlers: make it `async def`"
        )
    try:
        inspect.signature(function).bind(None, None)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"middleware {describe(function)} is called as `{getattr(function, '__name__', 'm')}(context, call_next)`, "
            f"which it cannot be: {error}"
        ) from None
