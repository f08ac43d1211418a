"""Checks the return values of user code: awaits awaitables, and refuses generators and functions, whose body has not
run.

An `async def` that is wrapped in a plain function, a lambda that calls it, a function that yields: calling any of these
runs nothing of the body. Whatever a call returns goes through here, so that nothing counts as done that was not.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import types
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import Future
from typing import Any

from pgbus.errors import ConfigurationError

# What has not run when it is returned: lazy iterators, and context managers made of generators.
_NOT_RUN = (AsyncGenerator, Generator, map, filter, contextlib.ContextDecorator, contextlib.AsyncContextDecorator)
# A decorator that takes arguments, and was written without them, returns the function that it should have been.
_NOT_CALLED = (types.FunctionType, types.MethodType, functools.partial)


def is_awaitable(value: object) -> bool:
    """Whether `finish` would wait for it."""
    return inspect.isawaitable(value) or isinstance(value, Future)


async def finish(value: Any, what: str, *, may_be_function: bool = False) -> Any:
    """Return the final result of a call of user code; `what` names the called function in errors.

    Raises ConfigurationError as `check` does.
    """
    while is_awaitable(value):
        value = await (asyncio.wrap_future(value) if isinstance(value, Future) else value)
    return check(value, what, may_be_function=may_be_function)


def check(value: Any, what: str, *, may_be_function: bool = False) -> Any:
    """Return the value; raises ConfigurationError if the body of the called function has not run."""
    if isinstance(value, _NOT_RUN):
        if isinstance(value, Generator):
            value.close()
        raise ConfigurationError(
            f"{what} returned {_kind_of(value)}, so nothing of its body has run: return when the work is done, and do "
            "not yield"
        )
    if isinstance(value, _NOT_CALLED) and not may_be_function:
        raise ConfigurationError(
            f"{what} returned a function, which is never called: a decorator on it may lack its parentheses"
        )
    return value


def refuse_awaitable(value: Any, what: str, why: str) -> Any:
    """`check` where nothing can be awaited: raises ConfigurationError for what is awaitable, too."""
    if is_awaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise ConfigurationError(f"{what} returned {_kind_of(value)}, {why}")
    return check(value, what)


def _kind_of(value: object) -> str:
    name = type(value).__name__.strip("_").replace("_", " ")
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
