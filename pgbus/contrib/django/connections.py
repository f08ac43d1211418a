"""Django's database connections, in handlers and procedures that run in a worker's threads."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from asgiref.sync import sync_to_async
from django.db import connections, reset_queries

from pgbus.aio.returned import refuse_awaitable
from pgbus.errors import ConfigurationError
from pgbus.handlers.contexts import CallContext
from pgbus.handlers.signatures import describe, is_async, why_not_handler

if TYPE_CHECKING:
    from pgbus.bus import Bus

P = ParamSpec("P")
T = TypeVar("T")


def uses_django_db(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator for a plain function that uses Django's models: what Django does around each request, around each call.

    Connections that broke, or are older than CONN_MAX_AGE, are closed before and after it. Every thread has its own, so
    a worker has at most as many as it has threads. The bus of the Django app does so around every handler; this is for
    other buses. Raises ConfigurationError for an async function, whose queries Django runs in threads of their own.
    """
    if is_async(function):
        raise ConfigurationError(
            f"{describe(function)} is async, and uses_django_db is for plain functions; decorate those that it calls"
        )
    if reason := why_not_handler(function):
        raise ConfigurationError(f"uses_django_db is for plain functions: {reason}")

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        close_old_connections()
        try:
            value: T = refuse_awaitable(
                function(*args, **kwargs), describe(function), "and uses_django_db is for plain functions"
            )
        finally:
            close_old_connections()
        return value

    return call


def close_old_connections_around(_: object, call_next: Callable[[], Any]) -> Any:
    """Middleware that does the same around every plain handler, in its thread."""
    close_old_connections()
    try:
        return call_next()
    finally:
        close_old_connections()


def close_old_connections_of_async_code(bus: Bus) -> Callable[[Any, Callable[[], Awaitable[Any]]], Awaitable[Any]]:
    """Middleware that does so around every async handler, in the thread where Django runs what async code asks for."""

    async def close_around(context: Any, call_next: Callable[[], Awaitable[Any]]) -> Any:
        if not _is_async(bus, context):
            return await call_next()
        close = sync_to_async(close_old_connections)
        await close()
        try:
            return await call_next()
        finally:
            await close()

    return close_around


def close_old_connections() -> None:
    """Close old connections as Django's function does, except one in a transaction of the caller, such as a test."""
    reset_queries()
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()


def _is_async(bus: Bus, context: Any) -> bool:
    if isinstance(context, CallContext):
        procedure = bus.registry.procedures.get(context.procedure)
        return procedure is not None and is_async(procedure.handler)
    listener = bus.registry.listeners.get(context.listener_name)
    return listener is not None and listener.signature.is_async
