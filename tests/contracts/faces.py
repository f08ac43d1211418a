"""Every connection or session that publishing accepts, behind one face: transactions, savepoints, SQL, publishing."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg
import msgspec
import psycopg
import sqlalchemy
from psycopg.adapt import Dumper, Loader
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from pgbus.database import sql
from pgbus.database.adapters import async_executor, sync_executor
from pgbus.publishing import outbox
from pgbus.publishing.rows import OutboxRow, Part, in_parts

STATEMENTS = sql.load()
LIMITS = outbox.Limits()
DEDUP_TTL = 3600.0


class Face(ABC):
    """One open connection or session, and how its user begins, ends and uses a transaction."""

    def __init__(self, using: Any) -> None:
        self.using = using

    @abstractmethod
    def transaction(self) -> AbstractAsyncContextManager[object]:
        """Begin; commit at the end, or roll back on an exception."""

    @abstractmethod
    def savepoint(self) -> AbstractAsyncContextManager[object]:
        """The same with a savepoint."""

    @abstractmethod
    async def execute(self, text: str) -> None:
        """Run SQL of the user's."""

    @abstractmethod
    async def close(self) -> None:
        """Close the connection, so that nothing can be run on it."""

    async def fetch(self, statement: sql.Statement, values: Mapping[str, object]) -> Sequence[Sequence[Any]]:
        return await async_executor(self.using).fetch(statement, values)

    async def publish(self, *events: object, dedup_ttl: float = DEDUP_TTL, **options: Any) -> list[UUID]:
        """What the bus does: check every event, then insert, then tell the ids."""
        rows = [outbox.prepare(event, limits=LIMITS, **options) for event in events]
        return await self.insert(rows, dedup_ttl=dedup_ttl)

    async def insert(self, rows: Sequence[OutboxRow], *, dedup_ttl: float = DEDUP_TTL) -> list[UUID]:
        return await self.insert_parts(in_parts(rows), dedup_ttl=dedup_ttl)

    async def insert_parts(self, parts: Iterable[Part], *, dedup_ttl: float = DEDUP_TTL) -> list[UUID]:
        ids: list[UUID] = []
        for part in parts:
            ids += part.ids(await self.fetch(*part.insert(STATEMENTS, service="", dedup_ttl=dedup_ttl)))
        return ids

    async def cancel(self, event_id: UUID) -> bool:
        return bool(await self.fetch(*outbox.cancel(event_id, STATEMENTS)))


class AsyncpgFace(Face):
    def transaction(self) -> AbstractAsyncContextManager[object]:
        return self.using.transaction()  # type: ignore[no-any-return]

    savepoint = transaction

    async def execute(self, text: str) -> None:
        await self.using.execute(text)

    async def close(self) -> None:
        await self.using.close()


class PsycopgAsyncFace(Face):
    def transaction(self) -> AbstractAsyncContextManager[object]:
        return self.using.transaction()  # type: ignore[no-any-return]

    savepoint = transaction

    async def execute(self, text: str) -> None:
        await self.using.execute(text.encode())
        # In a pipeline an error shows only now.
        if self.using.info.pipeline_status:
            await self.using._pipeline.sync()

    async def close(self) -> None:
        await self.using.close()


class AsyncSqlalchemyFace(Face):
    def transaction(self) -> AbstractAsyncContextManager[object]:
        return self.using.begin()  # type: ignore[no-any-return]

    def savepoint(self) -> AbstractAsyncContextManager[object]:
        return self.using.begin_nested()  # type: ignore[no-any-return]

    async def execute(self, text: str) -> None:
        await self.using.execute(sqlalchemy.text(text))

    async def close(self) -> None:
        connection = self.using if isinstance(self.using, AsyncConnection) else await self.using.connection()
        await connection.close()


class BlockingFace(Face):
    """Faces of code that blocks; their work goes to a thread, so that one may wait for another."""

    async def fetch(self, statement: sql.Statement, values: Mapping[str, object]) -> Sequence[Sequence[Any]]:
        return await asyncio.to_thread(sync_executor(self.using).fetch, statement, values)

    async def close(self) -> None:
        self.using.close()


class PsycopgFace(BlockingFace):
    def transaction(self) -> AbstractAsyncContextManager[object]:
        return _in_thread(self.using.transaction())

    savepoint = transaction

    async def execute(self, text: str) -> None:
        await asyncio.to_thread(self.using.execute, text.encode())


class SqlalchemyFace(BlockingFace):
    def transaction(self) -> AbstractAsyncContextManager[object]:
        return _in_thread(self.using.begin())

    def savepoint(self) -> AbstractAsyncContextManager[object]:
        return _in_thread(self.using.begin_nested())

    async def execute(self, text: str) -> None:
        await asyncio.to_thread(self.using.execute, sqlalchemy.text(text))

    async def close(self) -> None:
        connection = self.using if isinstance(self.using, sqlalchemy.Connection) else self.using.connection()
        connection.close()


@asynccontextmanager
async def _in_thread(context: AbstractContextManager[object]) -> AsyncIterator[object]:
    entered = await asyncio.to_thread(context.__enter__)
    try:
        yield entered
    except BaseException as error:
        await asyncio.to_thread(context.__exit__, type(error), error, error.__traceback__)
        raise
    else:
        await asyncio.to_thread(context.__exit__, None, None, None)


# ----------------------------------------------------------------------------------- one opener for each way to connect


@asynccontextmanager
async def asyncpg_connection(dsn: str) -> AsyncIterator[Face]:
    connection = await asyncpg.connect(dsn)
    try:
        yield AsyncpgFace(connection)
    finally:
        connection.terminate()


@asynccontextmanager
async def asyncpg_with_json_codec(dsn: str) -> AsyncIterator[Face]:
    """A connection whose user has jsonb decoded and encoded, as many do."""
    async with asyncpg_connection(dsn) as face:
        for name in ("json", "jsonb"):
            await face.using.set_type_codec(
                name,
                encoder=lambda value: msgspec.json.encode(value).decode(),
                decoder=msgspec.json.decode,
                schema="pg_catalog",
            )
        yield face


class Wrapped:
    """What a user's codecs make of the values of a type, and take for one."""

    def __init__(self, text: str) -> None:
        self.text = text


class NamedRecord(asyncpg.Record):
    """A row whose user goes by names alone."""

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            raise KeyError(key)
        return super().__getitem__(key)

    def __iter__(self) -> Any:
        return iter(self.keys())


async def set_own_codecs(connection: Any) -> None:
    """Have every type that pgbus uses, but text, read and written as its user wishes."""
    for name in ("uuid", "timestamptz", "int2", "int4", "int8", "float4", "float8", "bool", "jsonb"):
        await connection.set_type_codec(
            name, encoder=lambda value: value.text, decoder=Wrapped, schema="pg_catalog", format="text"
        )


@asynccontextmanager
async def asyncpg_with_own_codecs(dsn: str) -> AsyncIterator[Face]:
    connection = await asyncpg.connect(dsn, record_class=NamedRecord)
    await set_own_codecs(connection)
    try:
        yield AsyncpgFace(connection)
    finally:
        connection.terminate()


def adapt_own_ways(connection: Any) -> None:
    """Have psycopg read and write every type that pgbus uses, but text, as its user wishes."""

    class WrappedDumper(Dumper):
        def dump(self, obj: Any) -> bytes:
            return bytes(obj.text.encode())

    class WrappedLoader(Loader):
        def load(self, data: Any) -> Wrapped:
            return Wrapped(bytes(data).decode())

    for cls in (UUID, datetime, int, float, bool):
        connection.adapters.register_dumper(cls, WrappedDumper)
    for name in ("uuid", "timestamptz", "int2", "int4", "int8", "float4", "float8", "bool", "jsonb"):
        connection.adapters.register_loader(name, WrappedLoader)


@asynccontextmanager
async def psycopg_with_own_adapters(dsn: str) -> AsyncIterator[Face]:
    async with psycopg_sync(dsn) as face:
        adapt_own_ways(face.using)
        yield face


@asynccontextmanager
async def psycopg_async_with_own_adapters(dsn: str) -> AsyncIterator[Face]:
    async with psycopg_async(dsn) as face:
        adapt_own_ways(face.using)
        yield face


@asynccontextmanager
async def async_session_with_own_codecs(dsn: str) -> AsyncIterator[Face]:
    async with _async_engine(dsn, "asyncpg") as engine, AsyncSession(engine) as session:
        sqlalchemy.event.listen(engine.sync_engine, "connect", lambda raw, _: raw.run_async(set_own_codecs))
        yield AsyncSqlalchemyFace(session)


@asynccontextmanager
async def asyncpg_pooled(dsn: str) -> AsyncIterator[Face]:
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool, pool.acquire() as connection:
        yield AsyncpgFace(connection)


@asynccontextmanager
async def psycopg_async(dsn: str, **options: Any) -> AsyncIterator[Face]:
    connection = await psycopg.AsyncConnection.connect(dsn, **options)
    try:
        yield PsycopgAsyncFace(connection)
    finally:
        await connection.close()


@asynccontextmanager
async def psycopg_pipeline(dsn: str) -> AsyncIterator[Face]:
    connection = await psycopg.AsyncConnection.connect(dsn)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(connection.close)
        await stack.enter_async_context(connection.pipeline())
        yield PsycopgAsyncFace(connection)
        if connection.closed:
            stack.pop_all()  # a pipeline cannot be left any more


@asynccontextmanager
async def psycopg_sync(dsn: str, **options: Any) -> AsyncIterator[Face]:
    connection = psycopg.connect(dsn, **options)
    try:
        yield PsycopgFace(connection)
    finally:
        connection.close()


def psycopg_own_ways(dsn: str) -> AbstractAsyncContextManager[Face]:
    """A connection whose user wants dicts for rows, and parameters put into the text."""
    return psycopg_sync(dsn, row_factory=dict_row, cursor_factory=psycopg.ClientCursor)


def async_session(driver: str) -> Callable[[str], AbstractAsyncContextManager[Face]]:
    @asynccontextmanager
    async def opened(dsn: str) -> AsyncIterator[Face]:
        async with _async_engine(dsn, driver) as engine, AsyncSession(engine) as session:
            yield AsyncSqlalchemyFace(session)

    return opened


def async_connection(driver: str) -> Callable[[str], AbstractAsyncContextManager[Face]]:
    @asynccontextmanager
    async def opened(dsn: str) -> AsyncIterator[Face]:
        async with _async_engine(dsn, driver) as engine, engine.connect() as connection:
            yield AsyncSqlalchemyFace(connection)

    return opened


@asynccontextmanager
async def scoped_async_session(dsn: str) -> AsyncIterator[Face]:
    async with _async_engine(dsn, "asyncpg") as engine:
        session = async_scoped_session(async_sessionmaker(engine), scopefunc=lambda: 0)
        try:
            yield AsyncSqlalchemyFace(session)
        finally:
            await session.remove()


@asynccontextmanager
async def session(dsn: str) -> AsyncIterator[Face]:
    with Session(_engine(dsn)) as opened:
        yield SqlalchemyFace(opened)


@asynccontextmanager
async def scoped(dsn: str) -> AsyncIterator[Face]:
    registry = scoped_session(sessionmaker(_engine(dsn)), scopefunc=lambda: 0)
    try:
        yield SqlalchemyFace(registry)
    finally:
        registry.remove()


@asynccontextmanager
async def connection(dsn: str) -> AsyncIterator[Face]:
    with _engine(dsn).connect() as opened:
        yield SqlalchemyFace(opened)


def sqlalchemy_url(dsn: str, driver: str) -> str:
    return urlunsplit(urlsplit(dsn)._replace(scheme=f"postgresql+{driver}"))


def _engine(dsn: str) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(sqlalchemy_url(dsn, "psycopg"), poolclass=NullPool)


@asynccontextmanager
async def _async_engine(dsn: str, driver: str) -> AsyncIterator[Any]:
    engine = create_async_engine(sqlalchemy_url(dsn, driver), poolclass=NullPool)
    try:
        yield engine
    finally:
        await engine.dispose()


FACES: Mapping[str, Callable[[str], AbstractAsyncContextManager[Face]]] = {
    "asyncpg": asyncpg_connection,
    "asyncpg with a JSON codec": asyncpg_with_json_codec,
    "asyncpg with own codecs": asyncpg_with_own_codecs,
    "psycopg with own adapters": psycopg_with_own_adapters,
    "psycopg async with own adapters": psycopg_async_with_own_adapters,
    "asyncpg from a pool": asyncpg_pooled,
    "psycopg async": psycopg_async,
    "psycopg pipeline": psycopg_pipeline,
    "psycopg": psycopg_sync,
    "psycopg with own ways": psycopg_own_ways,
    "AsyncSession on asyncpg": async_session("asyncpg"),
    "AsyncSession on psycopg": async_session("psycopg"),
    "AsyncSession on asyncpg with own codecs": async_session_with_own_codecs,
    "AsyncConnection on asyncpg": async_connection("asyncpg"),
    "AsyncConnection on psycopg": async_connection("psycopg"),
    "async_scoped_session": scoped_async_session,
    "Session": session,
    "scoped_session": scoped,
    "Connection": connection,
}
