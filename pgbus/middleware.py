"""Middleware: functions that wrap the handlers of events and calls, the one that was registered first outermost.

An async one wraps every handler. A plain one wraps plain handlers, in their thread; so it is within all async ones.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

from pgbus.errors import ConfigurationError
from pgbus.handlers import describe, is_async

Handle: TypeAlias = Callable[[], Awaitable[Any]]
HandlePlain: TypeAlias = Callable[[], Any]


class Middleware:
    """The functions that wrap the handlers of one bus."""

    def __init__(self) -> None:
        self.is_used = False
        """Whether there is any."""
        self._of_all: tuple[Callable[..., Awaitable[Any]], ...] = ()
        self._of_plain: tuple[Callable[..., Any], ...] = ()

    def add(self, function: Callable[..., Any]) -> None:
        """Wrap all handlers in it, within those that were added before; raises ConfigurationError for what cannot."""
        _check(function)
        if is_async(function):
            self._of_all = (*self._of_all, function)
        else:
            self._of_plain = (*self._of_plain, function)
        self.is_used = True

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
    return result


def _call_plain(function: Callable[..., Any], context: object, handle: HandlePlain) -> Any:
    result = function(context, handle)
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError(
            f"middleware {describe(function)} is a plain function that returned a coroutine, which wraps nothing: "
            "make it `async def`, and await call_next()"
        )
    return result


def _check(function: Callable[..., Any]) -> None:
    if not callable(function):
        raise ConfigurationError(f"middleware is a function, not {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(
            f"middleware {describe(function)} is a generator: where it yields, write `return await call_next()` in an "
            "async function, or `return call_next()` in a plain one"
        )
    try:
        inspect.signature(function).bind(None, None)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"middleware {describe(function)} is called as `{getattr(function, '__name__', 'm')}(context, call_next)`, "
            f"which it cannot be: {error}"
        ) from None
