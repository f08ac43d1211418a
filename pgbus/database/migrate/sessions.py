"""A connection of its own for each verb, and the way to wait for one without `await`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias, TypeVar

import asyncpg

from pgbus.config import connect_timeout, for_asyncpg, read_dsn, shown_dsn
from pgbus.errors import ConfigurationError, DatabaseUnreachableError, PrivilegeError

Connection: TypeAlias = "asyncpg.Connection[Any]"
T = TypeVar("T")

_CONNECT_TIMEOUT = 10.0
# The driver notices a moment later that the connection is closed.
_LOST = (ConnectionError, asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, asyncpg.CrashShutdownError)


def run_blocking(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end on an event loop of its own, in a short-lived thread if this one runs a loop already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run(work)
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(_run, work).result()


def _run(work: Coroutine[Any, Any, T]) -> T:
    # Not asyncio.run(), which at its end takes away the event loop that the user may have set for this thread.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(work)


@asynccontextmanager
async def session(dsn: str | None, *, statement_cache_size: int = 100) -> AsyncIterator[Connection]:
    """A connection that is closed afterwards; None means the PG* variables. The cache is the driver's, in statements.

    Raises ConfigurationError for an invalid DSN, DatabaseUnreachableError, and PrivilegeError for what the server
    refused to this user in the block.
    """
    try:
        dsn = read_dsn(dsn) if dsn else None
    except ValueError as error:
        raise ConfigurationError(f"dsn: {error}") from None
    connection = await _connect(dsn, statement_cache_size=statement_cache_size)
    try:
        with privileges_told():
            yield connection
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        if not (connection.is_closed() or isinstance(error, _LOST)):
            raise
        raise DatabaseUnreachableError(shown_dsn(dsn), f"the connection was lost ({error})") from error
    finally:
        await connection.close()


@contextmanager
def privileges_told() -> Iterator[None]:
    """Raise PrivilegeError in place of the driver's error for what this user may not do."""
    try:
        yield
    except asyncpg.InsufficientPrivilegeError as error:
        raise PrivilegeError(f"{error}: connect as a user with that right, or let the owner grant it") from error


async def _connect(dsn: str | None, *, statement_cache_size: int) -> Connection:
    try:
        return await asyncpg.connect(
            for_asyncpg(dsn),
            timeout=connect_timeout(dsn, _CONNECT_TIMEOUT),
            statement_cache_size=statement_cache_size,
        )
    except (ValueError, asyncpg.InterfaceError):
        # The driver's words may quote a piece of the DSN, which may be a piece of the password.
        reason = "the DSN cannot be read; percent-encode what is not a letter or digit in its user and password"
    except (OSError, asyncpg.PostgresError) as error:
        reason = str(error) or type(error).__name__
    raise DatabaseUnreachableError(shown_dsn(dsn), reason)
