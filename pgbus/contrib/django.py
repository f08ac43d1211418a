"""Django's database connections, in handlers and procedures that run in a worker's threads."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from django.db import connections, reset_queries

from pgbus.errors import ConfigurationError

P = ParamSpec("P")
T = TypeVar("T")


def uses_django_db(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator for a plain function that uses Django's models: what Django does around each request, around each call.

    Connections that broke, or are older than CONN_MAX_AGE, are closed before and after it. Every thread has its own, so
    a worker has at most as many as it has threads. Raises ConfigurationError for an async function, whose queries
    Django runs in threads of their own.
    """
    if inspect.iscoroutinefunction(function):
        raise ConfigurationError(
            f"{function.__qualname__} is async, and uses_django_db is for plain functions; decorate those that it calls"
        )

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        reset_queries()
        _close_old_connections()
        try:
            return function(*args, **kwargs)
        finally:
            _close_old_connections()

    return call


def _close_old_connections() -> None:
    """Django's own function of that name, except that a transaction of whoever called us, such as a test, goes on."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()
