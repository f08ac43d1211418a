"""Publishing in the bus's own transaction: concurrent publishes of a process share one INSERT.

While one INSERT is on its way, further events gather for the next; each publish returns when its row is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from pgbus.config import Config, shown_dsn
from pgbus.database.connections import Borrowed, Pool, Pooled, behind_pooler, borrow, cut_pool, unreachable
from pgbus.database.faults import ClientError, InsufficientPrivilege, ServerError, is_link_error, sqlstate_of
from pgbus.database.opening import open_pool
from pgbus.database.sql import Statement, load
from pgbus.database.sql.rights import missing_right
from pgbus.database.store import Store
from pgbus.errors import DatabaseUnreachableError, OutcomeUnknownError
from pgbus.publishing.rows import OutboxRow, Part, in_parts

# One for the flusher, which has one INSERT on its way at a time, and one for what does not wait for it: publish_many,
# cancel, and the catalogue.
POOL_SIZE = 2
# serialization_failure, deadlock_detected: the server has rolled everything back, for no fault of the rows.
_ROLLED_BACK = frozenset({"40001", "40P01"})
# A prepared statement that is not there, or is there already: the session is not the one that prepared it.
_MIXED_UP = frozenset({"26000", "42P05"})
# read_only_sql_transaction: a standby, or a primary that is one by now, has done nothing.
_ONLY_READS = "25006"


class Publisher:
    """Publishes on a small pool of its own, bound to the event loop that it was made in.

    `on_open` is called once the pool is there, before anything is published; it does not fail.
    """

    def __init__(self, config: Config, *, on_open: Callable[[Store], Awaitable[None]]) -> None:
        self._config = config
        self._on_open = on_open
        self._statements = load(config.namespace)
        self._pool: Pool | None = None
        self._opening = asyncio.Lock()
        # Added to by publishes and taken whole by the flusher, all on one loop. A process that dies loses what is in
        # here, and no publish of it had returned.
        self._pending: list[tuple[OutboxRow, asyncio.Future[UUID]]] = []
        self._flusher: asyncio.Task[None] | None = None

    async def publish(self, row: OutboxRow) -> UUID:
        """Insert one row, together with others that come at the same time; the id of the event that stands for it."""
        future: asyncio.Future[UUID] = asyncio.get_running_loop().create_future()
        self._pending.append((row, future))
        # A flusher that finds nothing pending ends in the same step of the loop: one that is not done takes this row.
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush(), name="pgbus publisher")
        return await future

    async def publish_all(self, parts: Sequence[Part]) -> list[UUID]:
        """Insert events in one transaction; for each, the id of the one that stands for it.

        What failed is tried once more, if nothing can have been committed, or a dedup key bars a second event. Raises
        OutcomeUnknownError if that is not so and the connection was lost, and DatabaseUnreachableError.
        """
        if not parts:
            return []
        # Twice, and no more: the pool may have lent a connection that died while it was idle, and then the next one is
        # new. How long to go on trying is for the caller to say, who may have a request to answer.
        try:
            return await self._insert_all(parts)
        except Exception as error:
            if not may_repeat(error, parts):
                raise
        return await self._insert_all(parts)

    async def _insert_all(self, parts: Sequence[Part]) -> list[UUID]:
        async with self._connection() as connection:
            if len(parts) == 1:  # a statement is a transaction of its own
                return await self._insert(connection, parts[0])
            # All of the parts or none: it is one call of publish_many.
            async with connection.transaction():
                return [event_id for part in parts for event_id in await self._insert(connection, part)]

    async def execute(self, statement: Statement, values: Mapping[str, object]) -> Sequence[Sequence[object]]:
        """Run one statement of pgbus in a transaction of its own."""
        async with self._connection() as connection:
            return await _fetch(connection, statement, values)

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        """Run one statement in a transaction of its own."""
        async with self._connection() as connection:
            return await connection.fetch(query, *args)

    async def connect(self) -> None:
        """Open the pool now; raises DatabaseUnreachableError, and SchemaVersionError."""
        await self._open()

    async def close(self) -> None:
        """Publish what is pending, and close the pool."""
        # Waited for and not cancelled: callers wait for what it holds.
        if self._flusher:
            await asyncio.wait([self._flusher])
        if self._pool:
            await self._pool.close()
            # A bus that is closed may be used again: the next publish on this loop opens another pool.
            self._pool = None

    def abandon(self) -> None:
        """Drop the connections of a loop that was closed with them."""
        if self._pool:
            cut_pool(self._pool)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Borrowed]:
        pool = await self._open()
        # Until there is a connection nothing was sent, so that whatever fails then has published nothing for certain.
        is_open = False
        try:
            async with borrow(pool) as connection:
                is_open = True
                yield connection
        except Exception as error:
            if sqlstate_of(error.__cause__ or error) in _MIXED_UP:
                raise behind_pooler(self._config) from error
            if not is_link_error(error):
                raise
            # The driver's InterfaceError says that it was closed before anything was sent.
            nothing_done = isinstance(error, ClientError) or sqlstate_of(error) == _ONLY_READS
            if is_open and not nothing_done:
                raise OutcomeUnknownError(shown_dsn(self._config.dsn), str(error)) from error
            raise unreachable(self._config, error) from error

    async def _open(self) -> Pool:
        async with self._opening:  # the first events that are published at the same time share one pool
            if self._pool is None:
                pool = await open_pool(self._config, size=POOL_SIZE)
                try:
                    await self._on_open(Store(Pooled(pool), namespace=self._config.namespace))
                except BaseException:  # the publish that opens it was cancelled: nobody would close it
                    cut_pool(pool)
                    raise
                self._pool = pool
        return self._pool

    async def _flush(self) -> None:
        while self._pending:
            # Taken whole: what comes while this batch is on its way is the next one, which this loop sends, too.
            batch, self._pending = self._pending, []
            # A publish that was cancelled before this is not sent; one that is cancelled later may be published.
            waiting = [(row, future) for row, future in batch if not future.done()]
            try:
                ids = await self.publish_all(list(in_parts([row for row, _ in waiting])))
            except Exception as error:
                await self._fail(waiting, error)
            else:
                for (_, future), event_id in zip(waiting, ids, strict=True):
                    _tell(future, event_id)

    async def _insert(self, connection: Borrowed, part: Part) -> list[UUID]:
        config = self._config
        statement, values = part.insert(self._statements, service=config.service_name, dedup_ttl=config.dedup_ttl)
        return part.ids(await _fetch(connection, statement, values))

    async def _fail(self, waiting: Sequence[tuple[OutboxRow, asyncio.Future[UUID]]], error: Exception) -> None:
        """Let a row that the database refuses fail alone; if the connection broke, the outcome is unknown, and every
        caller gets that error.
        """
        for row, future in waiting:
            if future.done():
                continue
            # With an error of the server nothing was committed. After a connection that broke, only a row with a dedup
            # key may be sent again: another one might be published twice.
            if len(waiting) == 1 or not (isinstance(error, ServerError) or may_repeat(error, [row])):
                _tell(future, error)
                continue
            try:
                [event_id] = await self.publish_all([row])
            except Exception as own:
                _tell(future, own)
            else:
                _tell(future, event_id)


def _tell(future: asyncio.Future[UUID], answer: UUID | Exception) -> None:
    """Answer a publish, unless it was cancelled meanwhile."""
    # Looked at only now: a publish may be cancelled at every `await`, also of its own INSERT. To answer it then raises,
    # which would end the flusher, and nobody would ever answer the publishes behind it.
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def may_repeat(error: Exception, parts: Sequence[Part]) -> bool:
    """Whether events may be inserted again after this error without the danger of publishing them twice."""
    if isinstance(error, OutcomeUnknownError):
        return all(part.may_repeat for part in parts)
    return isinstance(error, DatabaseUnreachableError) or sqlstate_of(error) in _ROLLED_BACK


async def _fetch(connection: Borrowed, statement: Statement, values: Mapping[str, object]) -> Sequence[Sequence[Any]]:
    # The connection is our own: values go as they are, which is quicker than as text.
    try:
        rows: Sequence[Sequence[Any]] = await connection.fetch(statement.asyncpg, *statement.arguments(values))
    except InsufficientPrivilege as error:
        raise missing_right(statement, error) from error
    return rows
