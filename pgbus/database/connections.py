"""Connections to the database: how they are opened, what they are set to, and how one is borrowed from a pool.

Other packages have the types `Connection`, `Pool` and `Borrowed` from here, so that none of them imports a driver.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias
from uuid import uuid4

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from pgbus.config import Config, connect_timeout, for_asyncpg, shown_dsn
from pgbus.database.faults import DATABASE_ERRORS, is_link_error
from pgbus.errors import ConfigurationError, DatabaseUnreachableError

# Seconds. A statement of ours takes milliseconds; one that takes this long waits on a link that is dead.
COMMAND_TIMEOUT = 60.0
# Unless the DSN has a `connect_timeout`. The kernel alone takes two minutes to give up a host that has vanished.
CONNECT_TIMEOUT = 10.0
# Seconds after which a kept connection that nobody used is given up; a pool gives its own up after as long.
KEPT_UNUSED = 300.0

# The engine's statements touch few rows through indexes, whatever the statistics say, and are planned once. A bitmap
# scan would read all the rows that wait in a lane, only to sort them and take the first.
# Commits need not wait for the disk: a server crash takes WAL from its end only, so what is lost there is done again.
ENGINE_SETTINGS = {
    "application_name": "pgbus",
    "jit": "off",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_indexscan": "on",
    "enable_indexonlyscan": "on",
    "enable_nestloop": "on",
    "plan_cache_mode": "force_generic_plan",
    "synchronous_commit": "off",
    # What a role or a database may be set to otherwise, and our statements rest on.
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "search_path": "",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
}
# An older server refuses a setting that it does not know.
_SINCE_17 = {"transaction_timeout": "0"}

Connection: TypeAlias = "asyncpg.Connection[Any]"
Pool: TypeAlias = "asyncpg.Pool[Any]"
Record: TypeAlias = "asyncpg.Record"
# A connection while it is borrowed from a pool.
Borrowed: TypeAlias = "PoolConnectionProxy[Any]"


def settings_sql(settings: Mapping[str, str]) -> str:
    """Return the settings as one script of SET statements."""
    return "; ".join(f"SET {name} = '{value}'" for name, value in settings.items())


async def set_up(connection: Connection, **more: str) -> None:
    """Make a session one for the engine's statements, whatever its role and database are set to."""
    newer = _SINCE_17 if connection.get_server_version() >= (17,) else {}
    await connection.execute(settings_sql({**ENGINE_SETTINGS, **newer, **more}))


async def connect(config: Config) -> Connection:
    """A session outside of the pool; raises DatabaseUnreachableError when it cannot be opened."""
    try:
        connection: Connection = await asyncpg.connect(
            for_asyncpg(config.session_dsn),
            timeout=connect_timeout(config.session_dsn, CONNECT_TIMEOUT),
            command_timeout=COMMAND_TIMEOUT,
        )
    except ValueError as error:
        raise unreachable(config, error) from None
    except DATABASE_ERRORS as error:
        raise unreachable(config, error) from error
    # The server, too, should notice within 20 seconds that our host has vanished: then our locks are free.
    try:
        # First: through a shared session, the settings and the locks that follow would be those of other clients.
        if await _is_shared(connection, config):
            raise behind_pooler(config)
        await set_up(connection, **_KEEPALIVES)
        _keep_alive(connection)
    except BaseException as error:
        connection.terminate()
        if is_link_error(error):
            raise unreachable(config, error) from error
        raise
    return connection


async def _is_shared(connection: Connection, config: Config) -> bool:
    """Whether a pooler may run our next statement in another session of the server than the last one.

    All by scripts: a pooler of that kind may lose a prepared statement. A pooler makes up the process id that it tells.
    In transaction mode, the session that we used last is free for the next client; while that has it, we get another.
    """
    if await _holds(connection, f"pg_backend_pid() = {connection.get_server_pid()}"):
        return False
    mark = uuid4().hex
    await connection.execute(f"SET pgbus.session = '{mark}'")
    other: Connection = await asyncpg.connect(
        for_asyncpg(config.session_dsn), timeout=CONNECT_TIMEOUT, statement_cache_size=0
    )
    try:
        # Held open until the end of the test, so that `other` keeps the server's session that it has got. If that is
        # the one with our mark, it was free for anyone between two statements of ours.
        await other.execute("BEGIN")
        if not await _holds(other, f"current_setting('pgbus.session', true) IS DISTINCT FROM '{mark}'"):
            return True
        return not await _holds(connection, f"current_setting('pgbus.session', true) IS NOT DISTINCT FROM '{mark}'")
    finally:
        other.terminate()


async def _holds(connection: Connection, condition: str) -> bool:
    try:
        await connection.execute(f"DO $$ BEGIN ASSERT {condition}; END $$")
    except asyncpg.AssertError:
        return False
    return True


def behind_pooler(config: Config) -> ConfigurationError:
    """The error for a DSN whose pooler takes sessions apart."""
    return ConfigurationError(
        f"dsn: {shown_dsn(config.session_dsn)} leads to a pooler that shares sessions among its clients, as PgBouncer "
        "does in transaction mode; give the database's own address as direct_dsn (PGBUS_DIRECT_DSN), too"
    )


# 15 seconds each: the first three where nothing was under way to our host, the last (ms) where something was. The
# statement lock_delivery has them for the transactions of handlers, whose connections are their users'.
_KEEPALIVES = {
    "tcp_keepalives_idle": "6",
    "tcp_keepalives_interval": "3",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "15000",
}


# The same for our end of a session, which may send nothing for long.
_SOCKET_OPTIONS = {
    "TCP_KEEPIDLE": 6,
    "TCP_KEEPALIVE": 6,  # macOS's name for it
    "TCP_KEEPINTVL": 3,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 15_000,
}


def _keep_alive(connection: Any) -> None:
    """Have our host notice within 20 seconds that the server's has vanished, also while nothing is sent."""
    # The driver has no setting for it.
    link = connection._transport.get_extra_info("socket")
    if link.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with contextlib.suppress(OSError):
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _SOCKET_OPTIONS.items():
            if option := getattr(socket, name, None):
                link.setsockopt(socket.IPPROTO_TCP, option, value)


async def create_pool(config: Config, *, size: int, for_engine: bool = False, for_users: bool = False) -> Pool:
    """A pool of up to `size` connections; none is opened yet.

    - `for_engine`: with the engine's settings, on which its plans rest. It goes past a transaction-mode pooler, which
      would mix them up with those of others.
    - `for_users`: other people's code runs on the connections. They keep the settings of their role: what we run there
      holds a row by its lock, and names everything in full, so it rests on none of them.
    """
    dsn = config.session_dsn if for_engine else config.dsn
    pool: Pool = asyncpg.create_pool(
        for_asyncpg(dsn),
        min_size=0,
        max_size=size,
        init=set_up if for_engine else None,
        timeout=connect_timeout(dsn, CONNECT_TIMEOUT),
        command_timeout=COMMAND_TIMEOUT,
        # Only others leave something behind; for us a reset would be one more round trip, and take our settings away.
        reset=None if for_users else _keep_settings,
        # Behind a pooler, the next transaction may run on a session that does not have our prepared statements.
        statement_cache_size=0 if config.behind_pooler and not for_engine else 100,
    )
    await pool
    return pool


async def _keep_settings(connection: Connection) -> None:
    """Leave the connection as it is: every use of it ends its own transaction."""


def unreachable(config: Config, error: BaseException | str) -> DatabaseUnreachableError:
    """The error for people, without the password."""
    if isinstance(error, ValueError):
        # The driver's words may quote a piece of the DSN, which may be a piece of the password.
        error = "the DSN cannot be read; percent-encode what is not a letter or digit in its user and password"
    return DatabaseUnreachableError(shown_dsn(config.dsn), str(error) or type(error).__name__)


@asynccontextmanager
async def own_transaction(pool: Pool) -> AsyncIterator[Borrowed]:
    """A transaction on a connection of the pool."""
    async with borrow(pool) as connection, connection.transaction():
        yield connection


@asynccontextmanager
async def borrow(pool: Pool) -> AsyncIterator[Borrowed]:
    """A connection of the pool, which does not get it back when its link broke: it may not have noticed yet."""
    async with pool.acquire() as connection:
        try:
            yield connection
        except BaseException as error:
            if is_link_error(error):
                with contextlib.suppress(asyncpg.InterfaceError):  # the pool has noticed, too, and taken it back
                    connection.terminate()
            raise


def cut_pool(pool: Any) -> None:
    """Have the server see the end of a pool's connections, whose event loop is closed, so that nothing can be sent."""
    # The pool has no call that does without its loop; nor has it a list of its connections for others.
    for holder in pool._holders:
        if holder._con is not None:
            cut(holder._con)


def cut(connection: Any) -> None:
    """The same for one connection."""
    # The driver has no call for it: all of its own go by way of the loop.
    with contextlib.suppress(OSError, AttributeError):
        connection._transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


class Pooled:
    """A pool as a Runner: each statement on whatever connection is free."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        """Run one statement and return its rows."""
        async with borrow(self._pool) as connection:
            return await connection.fetch(query, *args)


class Kept:
    """A pool as a Runner that keeps one of its connections, for statements that follow each other closely.

    Taking a connection and giving it back costs more turns of the event loop than a small statement does.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._connection: Borrowed | None = None
        # When the last statement began, by the loop's clock.
        self._used_at = 0.0
        # Held over a statement, and while the connection is given back: nobody uses one that the pool has again.
        self._busy = asyncio.Lock()

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        """Run one statement; after a link error, the next one gets another connection."""
        async with self._busy:
            now = asyncio.get_running_loop().time()
            if self._connection is not None and now - self._used_at > KEPT_UNUSED:
                await self._drop()  # a firewall may have forgotten it, and sends no error
            if self._connection is None:
                self._connection = await self._pool.acquire()
            self._used_at = now
            try:
                return await self._connection.fetch(query, *args)
            except BaseException as error:
                if is_link_error(error):
                    await self._drop()
                raise

    async def give_back(self) -> None:
        """Let the pool have the connection: a pool that is closed waits for all of its own."""
        async with self._busy:
            if self._connection is not None:
                connection, self._connection = self._connection, None
                await self._pool.release(connection)

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(asyncpg.InterfaceError):  # the pool has noticed, too, and taken it back
                connection.terminate()
                await self._pool.release(connection)


def session_closed() -> asyncpg.PostgresConnectionError:
    """Return the error that ends work on a session that is lost."""
    return asyncpg.ConnectionDoesNotExistError("the session was closed")
