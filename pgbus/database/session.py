"""The session connection: it listens for notifications, and holds the advisory locks that say who lives and leads.

A notification only wakes; it never carries truth. When the session breaks, PostgreSQL frees its locks.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

from pgbus.config import Config
from pgbus.database.connections import Connection, connect
from pgbus.database.faults import DATABASE_ERRORS
from pgbus.database.store import Store


class Session:
    """One open session; made by `Session.open`.

    Statements on it run one after the other: asyncpg allows no two at once on a connection.
    """

    def __init__(self, connection: Connection, *, namespace: str) -> None:
        self._connection = connection
        # Held over each statement, and over the whole of a `transaction`: what another task ran in between would be
        # part of that transaction, and be rolled back with it.
        self._busy = asyncio.Lock()
        self._statements = _Statements(connection)
        self._used_at = time.monotonic()
        # Set by the driver when it sees the connection end, and by a user whose statement has found it dead; then for
        # good: a session does not come back, its owner opens another one.
        self.lost = asyncio.Event()
        self.store = Store(self, namespace=namespace)
        connection.add_termination_listener(lambda _: self.lost.set())

    @classmethod
    async def open(cls, config: Config, *, channels: Mapping[str, Callable[[str], None]]) -> Session:
        """Connect, and call `channels[name](payload)` on every notification; raises DatabaseUnreachableError."""
        connection = await connect(config)
        session = cls(connection, namespace=config.namespace)
        try:
            for channel, callback in channels.items():
                await connection.add_listener(channel, _forward(callback))
        except BaseException:
            connection.terminate()
            raise
        return session

    @property
    def idle_since(self) -> float:
        """When its last statement ended, by time.monotonic(); infinity while one runs."""
        return math.inf if self._busy.locked() else self._used_at

    @property
    def connection(self) -> Connection:
        """The connection, for callers that need more than statements while no other task uses the session."""
        return self._connection

    @property
    def backend_pid(self) -> int:
        """The process id of the server's side of it."""
        return self._connection.get_server_pid()

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        """Run one statement and return its rows."""
        async with self._busy:
            if self._connection.is_closed():
                raise asyncpg.InterfaceError("the session is closed")
            try:
                return await self._statements.fetch(query, *args)
            finally:
                self._used_at = time.monotonic()

    async def prepare(self, names: Iterable[str]) -> None:
        """Have the server parse these statements now, so that each use of one is a single message.

        Otherwise the driver sends the first use of a statement in two, and the server waits for the second one without
        any of its idle timeouts: a process that freezes there would keep its session, and the session its locks.
        """
        async with self._busy:
            await self._statements.prepare(self.store.statement(name).asyncpg for name in names)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Store]:
        """Statements in one transaction; others on this session wait for its end."""
        async with self._busy:
            if self._connection.is_closed():
                raise asyncpg.InterfaceError("the session is closed")
            async with self._connection.transaction():
                yield Store(self._statements, namespace=self.store.namespace)

    async def close(self) -> None:
        """End the session; its locks are free when this returns, if the server answers within 2 seconds."""
        if self._connection.is_closed():
            return
        try:
            # Seconds. It waits until the server has dropped the connection, and the server releases our locks before.
            await self._connection.close(timeout=2)
        except DATABASE_ERRORS:
            # Then the locks are free when the server notices, by its keepalives at the latest.
            self._connection.terminate()

    def terminate(self) -> None:
        """Drop the connection without telling the server."""
        self._connection.terminate()


class _Statements:
    """Runs statements on a connection, in one message those that it has prepared."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._prepared: dict[str, PreparedStatement[Any]] = {}

    async def prepare(self, queries: Iterable[str]) -> None:
        for query in queries:
            # What an older schema does not have yet, says so when it is used.
            with contextlib.suppress(asyncpg.SyntaxOrAccessError):
                self._prepared[query] = await self._connection.prepare(query)

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        try:
            rows = await self._fetch(query, *args)
        except TypeError:
            if not self._connection.is_closed():
                raise
            rows = None
        if rows is None:
            # The server ended the connection while `close` cancelled this statement. The driver then takes None for its
            # result, and fails to unpack that of a prepared one.
            raise asyncpg.ConnectionDoesNotExistError("the session was closed in the middle of a statement")
        return rows

    async def _fetch(self, query: str, *args: Any) -> list[Any] | None:
        if prepared := self._prepared.get(query):
            try:
                return await prepared.fetch(*args)
            except asyncpg.InvalidCachedStatementError:
                # A migration has changed its columns. From here on the driver looks after it.
                del self._prepared[query]
                if self._connection.is_in_transaction():
                    raise
        return await self._connection.fetch(query, *args)


def _forward(callback: Callable[[str], None]) -> Callable[..., None]:
    def forward(connection: object, pid: int, channel: str, payload: object) -> None:  # noqa: ARG001 - asyncpg's shape
        callback(str(payload))

    return forward
