"""What may be passed as `using`, how SQLAlchemy begins its transactions, and what is refused with a hint."""

from __future__ import annotations

from contextlib import suppress

import asyncpg
import pytest
import sqlalchemy
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from pgbus import outbox
from pgbus.adapters import async_executor, sync_executor
from pgbus.errors import ConnectionUnusableError, TransactionAbortedError
from tests.contracts import faces
from tests.contracts.faces import LIMITS, STATEMENTS
from tests.contracts.rows import PersonChanged, outbox_rows, payloads

# --------------------------------------------------------------------------------------------------- ways of SQLAlchemy


async def test_publishing_first_makes_sqlalchemy_begin(database: str, observer: asyncpg.Connection) -> None:
    for driver in ("asyncpg", "psycopg"):
        engine = create_async_engine(faces.sqlalchemy_url(database, driver))
        async with engine.connect() as connection:
            await faces.AsyncSqlalchemyFace(connection).publish(PersonChanged("gone"))
            assert {"name": "gone"} not in await payloads(observer)
            await connection.rollback()
        async with AsyncSession(engine) as session:
            await faces.AsyncSqlalchemyFace(session).publish(PersonChanged(driver))
            await session.commit()
            await faces.AsyncSqlalchemyFace(session).publish(PersonChanged("gone"))
        await engine.dispose()
    assert await payloads(observer) == [{"name": "asyncpg"}, {"name": "psycopg"}]


async def test_autocommit_is_what_the_user_asked_for(database: str, observer: asyncpg.Connection) -> None:
    for driver in ("asyncpg", "psycopg"):
        engine = create_async_engine(faces.sqlalchemy_url(database, driver), isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await faces.AsyncSqlalchemyFace(connection).publish(PersonChanged(driver))
            assert len(await outbox_rows(observer)) == 1
            await observer.execute("TRUNCATE pgbus.outbox")
        await engine.dispose()


async def test_autocommit_of_psycopg_commits_at_once(database: str, observer: asyncpg.Connection) -> None:
    async with (
        faces.psycopg_sync(database, autocommit=True) as face,
        faces.psycopg_async(database, autocommit=True) as other,
    ):
        await face.publish(PersonChanged("one"))
        await other.publish(PersonChanged("two"))
        assert await payloads(observer) == [{"name": "one"}, {"name": "two"}]


class Mapped(orm.DeclarativeBase):
    pass


class Person(Mapped):
    __tablename__ = "people"
    name: orm.Mapped[str] = orm.mapped_column(primary_key=True)


async def test_objects_of_a_session_and_events_commit_together(database: str, observer: asyncpg.Connection) -> None:
    engine = sqlalchemy.create_engine(faces.sqlalchemy_url(database, "psycopg"))
    Mapped.metadata.create_all(engine)
    with orm.Session(engine) as session, session.begin():
        session.add(Person(name="Ada"))
        await faces.SqlalchemyFace(session).publish(PersonChanged("Ada"))
        assert session.new
    assert await observer.fetchval("SELECT count(*) FROM people") == 1
    assert await payloads(observer) == [{"name": "Ada"}]
    with orm.Session(engine) as session:
        session.add(Person(name="Ada"))
        with suppress(sqlalchemy.exc.IntegrityError):
            session.flush()
        with pytest.raises(TransactionAbortedError):
            await faces.SqlalchemyFace(session).publish(PersonChanged("Eve"))
        session.rollback()
        await faces.SqlalchemyFace(session).publish(PersonChanged("Bob"))
        session.commit()
    engine.dispose()
    assert await payloads(observer) == [{"name": "Ada"}, {"name": "Bob"}]


async def test_the_blocking_session_inside_an_async_one_publishes(database: str, observer: asyncpg.Connection) -> None:
    engine = create_async_engine(faces.sqlalchemy_url(database, "asyncpg"))
    row = outbox.prepare(PersonChanged("Ada"), limits=LIMITS)
    async with AsyncSession(engine) as session, session.begin():
        await session.run_sync(
            lambda blocking: sync_executor(blocking).fetch(*outbox.insert([row], STATEMENTS, dedup_ttl=1.0))
        )
    await engine.dispose()
    assert await payloads(observer) == [{"name": "Ada"}]


async def test_other_databases_are_refused() -> None:
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.connect() as connection, pytest.raises(ConnectionUnusableError, match="sqlite"):
        await faces.SqlalchemyFace(connection).publish(PersonChanged("Ada"))
    engine.dispose()


async def test_a_session_without_a_database_of_its_own_is_refused() -> None:
    with orm.Session() as session, pytest.raises(ConnectionUnusableError, match="which database"):
        await faces.SqlalchemyFace(session).publish(PersonChanged("Ada"))


# ------------------------------------------------------------------------------------------------------ the wrong thing


class SubclassedConnection(asyncpg.Connection):
    pass


async def test_a_subclass_of_a_connection_is_known(database: str) -> None:
    connection = await asyncpg.connect(database, connection_class=SubclassedConnection)
    await faces.AsyncpgFace(connection).publish(PersonChanged("Ada"))
    await connection.close()


async def test_a_connection_given_back_to_its_pool_is_closed(database: str) -> None:
    async with asyncpg.create_pool(database, min_size=1, max_size=1) as pool:
        async with pool.acquire() as connection:
            pass
        with pytest.raises(ConnectionUnusableError, match="closed"):
            await faces.AsyncpgFace(connection).publish(PersonChanged("Ada"))


async def test_pools_engines_and_makers_are_refused_with_what_to_pass_instead(database: str) -> None:
    engine = sqlalchemy.create_engine("postgresql+psycopg://")
    async_engine = create_async_engine("postgresql+asyncpg://")
    pool = asyncpg.create_pool(database)
    for using, hint in (
        (pool, "take a connection out of it"),
        (engine, "pass a connection"),
        (async_engine, "pass a connection"),
        (orm.sessionmaker(engine), "call it"),
        ("default", "builtins.str cannot be used: pass an? "),
        (object(), "builtins.object cannot be used: pass an? "),
    ):
        with pytest.raises(ConnectionUnusableError, match=hint):
            async_executor(using)
        with pytest.raises(ConnectionUnusableError, match=hint):
            sync_executor(using)
    await async_engine.dispose()


async def test_blocking_and_awaited_calls_refuse_each_others_connections(database: str) -> None:
    async with faces.psycopg_sync(database) as blocking, faces.asyncpg_connection(database) as awaited:
        with pytest.raises(ConnectionUnusableError, match=r"psycopg\.Connection blocks"):
            async_executor(blocking.using)
        with pytest.raises(ConnectionUnusableError, match="has to be awaited"):
            sync_executor(awaited.using)
