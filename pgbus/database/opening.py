"""Opens what a process publishes and calls through, and checks that the database has the schema of this code."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import cast

from pgbus.config import Config
from pgbus.database.connections import Connection, Pool, borrow, create_pool, unreachable
from pgbus.database.faults import ServerError, is_link_error
from pgbus.database.session import Session


async def open_pool(config: Config, *, size: int) -> Pool:
    """A pool to a database of our schema; raises DatabaseUnreachableError, and SchemaVersionError."""
    pool = await create_pool(config, size=size)
    try:
        async with _told(config), borrow(pool) as connection:  # the pool connects when a connection is borrowed
            await _check(cast("Connection", connection), config)
    except BaseException:
        pool.terminate()
        raise
    return pool


async def open_session(config: Config, *, channels: Mapping[str, Callable[[str], None]]) -> Session:
    """A session with a database of our schema; raises DatabaseUnreachableError, and SchemaVersionError."""
    session = await reopen_session(config, channels=channels)
    try:
        # With the first session only: a schema that is upgraded while a program runs is made so that the code before it
        # goes on (see `pgbus.oldest_code`).
        async with _told(config):
            await _check(session.connection, config)
    except BaseException:
        session.terminate()
        raise
    return session


async def reopen_session(config: Config, *, channels: Mapping[str, Callable[[str], None]]) -> Session:
    """The same after a session that was lost. The schema may be newer by now, which does not end what runs."""
    try:
        return await Session.open(config, channels=channels)
    except ServerError as error:  # the server refuses a new session, for any reason
        raise unreachable(config, error) from error


async def _check(connection: Connection, config: Config) -> None:
    from pgbus.database.migrate import check_async  # the versions of the schema, which only a first connection needs

    await check_async(connection, namespace=config.namespace)


@asynccontextmanager
async def _told(config: Config) -> AsyncIterator[None]:
    """Raise DatabaseUnreachableError, which names the database, for an error of the server before any statement ran."""
    try:
        yield
    except Exception as error:
        if is_link_error(error) or isinstance(error, ServerError):
            raise unreachable(config, error) from error
        raise
