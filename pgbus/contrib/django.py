"""Django's database connections, in handlers and procedures that run in a worker's threads."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from django.db import connections, reset_queries

from pgbus.aio.returned import refuse_awaitable
from pgbus.errors import ConfigurationError
from pgbus.handlers.signatures import describe, is_async, why_not_handler

P = ParamSpec("P")
T = TypeVar("T")


def uses_django_db(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator for a plain function that uses Django's models: what Django does around each request, around each call.

    Connections that broke, or are older than CONN_MAX_AGE, are closed before and after it. Every thread has its own, so
    a worker has at most as many as it has threads. Raises ConfigurationError for an async function, whose queries
    Django runs in threads of their own.
    """
    if is_async(function):
        raise ConfigurationError(
            f"{describe(function)} is async, and uses_django_db is for plain functions; decorate those that it calls"
        )
    if reason := why_not_handler(function):
        raise ConfigurationError(f"uses_django_db is for plain functions: {reason}")

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        reset_queries()
        _close_old_connections()
        try:
            value: T = refuse_awaitable(
                function(*args, **kwargs), describe(function), "and uses_django_db is for plain functions"
            )
        finally:
            _close_old_connections()
        return value

    return call


def _close_old_connections() -> None:
    """Django's own function of that name, except that a transaction of whoever called us, such as a test, goes on."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()
