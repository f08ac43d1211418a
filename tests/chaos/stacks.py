"""The service of the crash contract, on every stack, run by `pgbus run tests.chaos.stacks`.

It kills itself at a point of its work: CHAOS_POINT names it, CHAOS_AFTER says at which pass. As a program
(`python -m tests.chaos.stacks STACK FIRST LAST`) it publishes: each event with a row of `orders`, in one transaction.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg
import django
import psycopg
import sqlalchemy
from django.conf import settings
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

import pgbus
from pgbus import inbox
from pgbus.listeners.executor import Executor, Settling
from tests.contracts.faces import sqlalchemy_url

DSN = os.environ["CHAOS_DSN"]
OTHER_DSN = os.environ["CHAOS_OTHER_DSN"]
POINT = os.environ.get("CHAOS_POINT")
AFTER = int(os.environ.get("CHAOS_AFTER", "0"))

BEFORE_HANDLER, IN_HANDLER, BEFORE_COMMIT, AFTER_COMMIT = "before the handler", "in it", "before commit", "after commit"
POINTS = (BEFORE_HANDLER, IN_HANDLER, BEFORE_COMMIT, AFTER_COMMIT)


def database_of(dsn: str) -> dict[str, object]:
    """A DSN as Django's settings have it."""
    found = conninfo_to_dict(dsn)
    names = {"NAME": "dbname", "HOST": "host", "PORT": "port", "USER": "user", "PASSWORD": "password"}
    place = {key: str(found.get(name) or "") for key, name in names.items()}
    return {"ENGINE": "django.db.backends.postgresql", **place}


settings.configure(DATABASES={"default": database_of(DSN), "elsewhere": database_of(OTHER_DSN)}, USE_TZ=True)
django.setup()
bus = pgbus.create()
_passes = 0


def passing(point: str) -> None:
    """The point is reached; the process may end here."""
    global _passes
    if point == POINT:
        _passes += 1
        if _passes == AFTER:
            os.kill(os.getpid(), signal.SIGKILL)


# ------------------------------------------------------------------------------- each stack: a transaction and a query


@asynccontextmanager
async def with_asyncpg(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def with_psycopg_async(dsn: str) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        yield connection


@contextmanager
def with_psycopg(dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dsn) as connection:
        yield connection


@asynccontextmanager
async def with_async_session(dsn: str) -> AsyncIterator[AsyncSession]:
    engine = create_async_engine(sqlalchemy_url(dsn, "asyncpg"), poolclass=NullPool)
    async with AsyncSession(engine) as session, session.begin():
        yield session


@asynccontextmanager
async def with_async_connection(dsn: str) -> AsyncIterator[AsyncConnection]:
    engine = create_async_engine(sqlalchemy_url(dsn, "psycopg"), poolclass=NullPool)
    async with engine.begin() as connection:
        yield connection


@contextmanager
def with_session(dsn: str) -> Iterator[Session]:
    engine = sqlalchemy.create_engine(sqlalchemy_url(dsn, "psycopg"), poolclass=NullPool)
    with Session(engine) as session, session.begin():
        yield session


@contextmanager
def with_connection(dsn: str) -> Iterator[sqlalchemy.Connection]:
    engine = sqlalchemy.create_engine(sqlalchemy_url(dsn, "psycopg"), poolclass=NullPool)
    with engine.begin() as connection:
        yield connection


@contextmanager
def with_django(dsn: str) -> Iterator[BaseDatabaseWrapper]:
    alias = "default" if dsn == DSN else "elsewhere"
    with transaction.atomic(using=alias):
        yield connections[alias]


ASYNC: dict[str, tuple[Any, Callable[[str], Any]]] = {
    "asyncpg": (asyncpg.Connection, with_asyncpg),
    "psycopg-async": (psycopg.AsyncConnection, with_psycopg_async),
    "async-session": (AsyncSession, with_async_session),
    "async-connection": (AsyncConnection, with_async_connection),
}
SYNC: dict[str, tuple[Any, Callable[[str], Any]]] = {
    "psycopg": (psycopg.Connection, with_psycopg),
    "session": (Session, with_session),
    "connection": (sqlalchemy.Connection, with_connection),
    "django": (BaseDatabaseWrapper, with_django),
}
STACKS = (*ASYNC, *SYNC)


def insert(connection: Any, table: str, number: int, stack: str) -> Any:
    """Write a row; to be awaited where the connection is."""
    query = f"INSERT INTO {table} (n, stack) VALUES ({number}, '{stack}')"
    if isinstance(connection, BaseDatabaseWrapper):
        with connection.cursor() as cursor:
            return cursor.execute(query)
    is_drivers = isinstance(connection, asyncpg.Connection | psycopg.Connection | psycopg.AsyncConnection)
    return connection.execute(query if is_drivers else sqlalchemy.text(query))


# ------------------------------------------------------------------------------------------------------------ listeners


def declare(stack: str) -> None:
    """A transactional listener, and one that writes to another database and has an inbox there."""
    options: dict[str, Any] = {"start": "beginning", "concurrency": 2}
    if stack in ASYNC:
        annotation, transaction = ASYNC[stack]

        async def handle(event: dict[str, int], own: Any) -> None:
            await insert(own, "effects_of", event["n"], stack)
            passing(IN_HANDLER)

        async def copy(event: dict[str, int], context: pgbus.Context) -> None:
            passing(BEFORE_HANDLER)
            async with transaction(OTHER_DSN) as own:
                if await inbox.take(context, using=own):
                    await insert(own, "effects_of", event["n"], stack)
                passing(IN_HANDLER)
            passing(AFTER_COMMIT)

        handle.__annotations__["own"] = annotation
        bus.listener("crash.placed", name=stack, transactional=True, **options)(handle)
        bus.listener("crash.placed", name=f"{stack}-elsewhere", **options)(copy)
    else:
        annotation, transaction = SYNC[stack]

        def handle_here(event: dict[str, int], own: Any) -> None:
            insert(own, "effects_of", event["n"], stack)
            passing(IN_HANDLER)

        def copy_here(event: dict[str, int], context: pgbus.Context) -> None:
            passing(BEFORE_HANDLER)
            with transaction(OTHER_DSN) as own:
                if inbox.take_sync(context, using=own):
                    insert(own, "effects_of", event["n"], stack)
                passing(IN_HANDLER)
            passing(AFTER_COMMIT)

        handle_here.__annotations__["own"] = annotation
        bus.listener("crash.placed", name=stack, transactional=True, **options)(handle_here)
        bus.listener("crash.placed", name=f"{stack}-elsewhere", **options)(copy_here)


for each in STACKS:
    declare(each)

_run_in_transaction = Executor.run_in_transaction


class Passing:
    """The ends of a handler's transaction, with the points of them that a handler does not see."""

    def __init__(self, settling: Settling) -> None:
        self._settling = settling

    async def begin(self, executor: Any) -> None:
        await self._settling.begin(executor)
        passing(BEFORE_HANDLER)

    def begin_sync(self, executor: Any) -> None:
        self._settling.begin_sync(executor)
        passing(BEFORE_HANDLER)

    async def settle(self, executor: Any) -> None:
        await self._settling.settle(executor)
        passing(BEFORE_COMMIT)

    def settle_sync(self, executor: Any) -> None:
        self._settling.settle_sync(executor)
        passing(BEFORE_COMMIT)


async def run_in_transaction(self: Executor, body: Any, events: Any, attempt: int, *, settling: Settling) -> None:
    """The attempt of a transactional handler, with its point after the commit, too."""
    await _run_in_transaction(self, body, events, attempt, settling=Passing(settling))
    passing(AFTER_COMMIT)


if POINT:
    Executor.run_in_transaction = run_in_transaction  # type: ignore[method-assign] # where else could it end just there

# ----------------------------------------------------------------------------------------------------------- publishing


class ChangedMind(Exception):
    """What a publisher rolls every fifth transaction back with."""


async def publish(stack: str, number: int) -> None:
    _, transaction = ASYNC[stack]
    async with transaction(DSN) as own:
        await insert(own, "orders", number, stack)
        passing(IN_HANDLER)
        await bus.publish({"n": number}, topic="crash.placed", using=own)
        passing(BEFORE_COMMIT)
        if number % 5 == 4:
            raise ChangedMind
    passing(AFTER_COMMIT)


def publish_here(stack: str, number: int) -> None:
    _, transaction = SYNC[stack]
    with transaction(DSN) as own:
        insert(own, "orders", number, stack)
        passing(IN_HANDLER)
        bus.publish_sync({"n": number}, topic="crash.placed", using=own)
        passing(BEFORE_COMMIT)
        if number % 5 == 4:
            raise ChangedMind
    passing(AFTER_COMMIT)


def main(stack: str, first: str, last: str) -> None:
    with asyncio.Runner() as runner:
        for number in range(int(first), int(last)):
            try:
                runner.run(publish(stack, number)) if stack in ASYNC else publish_here(stack, number)
            except ChangedMind:
                continue


if __name__ == "__main__":
    main(*sys.argv[1:])
