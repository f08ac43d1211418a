"""What may be passed as `using`, how SQLAlchemy begins its transactions, and what is refused with a hint."""

from __future__ import annotations

import warnings
from contextlib import suppress

import asyncpg
import pytest
import sqlalchemy
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import pgbus
from pgbus.database.adapters import async_executor, sync_executor
from pgbus.errors import ConnectionUnusableError, NoTransactionWarning, TransactionAbortedError
from pgbus.publishing import outbox
from tests.conftest import Connect
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
            await session.rollback()
        await engine.dispose()
    assert await payloads(observer) == [{"name": "asyncpg"}, {"name": "psycopg"}]


async def test_autocommit_is_what_the_user_asked_for(database: str, observer: asyncpg.Connection) -> None:
    for driver in ("asyncpg", "psycopg"):
        engine = create_async_engine(faces.sqlalchemy_url(database, driver), isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            with pytest.warns(NoTransactionWarning, match=r"connection \(AUTOCOMMIT\) is in no transaction"):
                await faces.AsyncSqlalchemyFace(connection).publish(PersonChanged(driver))
            assert len(await outbox_rows(observer)) == 1
            await observer.execute("TRUNCATE pgbus.outbox")
        await engine.dispose()


async def test_autocommit_of_psycopg_commits_at_once(database: str, observer: asyncpg.Connection) -> None:
    async with (
        faces.psycopg_sync(database, autocommit=True) as face,
        faces.psycopg_async(database, autocommit=True) as other,
    ):
        for autocommitting, name in ((face, "one"), (other, "two")):
            with pytest.warns(NoTransactionWarning, match=r"psycopg connection \(autocommit\) is in no transaction"):
                await autocommitting.publish(PersonChanged(name))
        assert await payloads(observer) == [{"name": "one"}, {"name": "two"}]


# ------------------------------------------------------------------------------------------------ no transaction at all

SWALLOWED = r"closed without a commit, so it was not published: publish before `commit\(\)`"


async def test_an_event_after_commit_that_closing_swallows_is_warned_of_at_its_line(
    database: str, observer: asyncpg.Connection
) -> None:
    engine = sqlalchemy.create_engine(faces.sqlalchemy_url(database, "psycopg"))
    session = orm.Session(engine)
    session.execute(sqlalchemy.text("SELECT 1"))
    session.commit()
    await faces.SqlalchemyFace(session).publish(PersonChanged("gone"))
    with pytest.warns(NoTransactionWarning, match=SWALLOWED):
        session.close()
    engine.dispose()
    assert await payloads(observer) == []


async def test_an_async_session_outside_a_transaction_warns(database: str, observer: asyncpg.Connection) -> None:
    engine = create_async_engine(faces.sqlalchemy_url(database, "asyncpg"))
    session = AsyncSession(engine)
    await session.execute(sqlalchemy.text("SELECT 1"))
    await session.commit()
    await faces.AsyncSqlalchemyFace(session).publish(PersonChanged("gone"))
    with pytest.warns(NoTransactionWarning, match=SWALLOWED):
        await session.close()
    await engine.dispose()
    assert await payloads(observer) == []


async def test_what_is_committed_or_rolled_back_is_not_warned_of(database: str, observer: asyncpg.Connection) -> None:
    engine = sqlalchemy.create_engine(faces.sqlalchemy_url(database, "psycopg"))
    with orm.Session(engine) as session:
        for name in ("one", "two"):
            await faces.SqlalchemyFace(session).publish(PersonChanged(name))
            session.execute(sqlalchemy.text("SELECT 1"))
            session.commit()
        await faces.SqlalchemyFace(session).publish(PersonChanged("gone"))
        session.rollback()
        with suppress(KeyError), orm.Session(engine) as other:
            await faces.SqlalchemyFace(other).publish(PersonChanged("gone"))
            raise KeyError
        with session.begin():
            await faces.SqlalchemyFace(session).publish(PersonChanged("three"))
    engine.dispose()
    assert await payloads(observer) == [{"name": "one"}, {"name": "two"}, {"name": "three"}]


async def test_publishing_on_asyncpg_without_a_transaction_warns(
    database: str, observer: asyncpg.Connection, connect: Connect
) -> None:
    face = faces.AsyncpgFace(await connect(database))
    with pytest.warns(NoTransactionWarning, match=r"at once, whatever becomes of your rows: write both within"):
        await face.publish(PersonChanged("one"))
    async with face.transaction():
        await face.publish(PersonChanged("two"))
    assert await payloads(observer) == [{"name": "one"}, {"name": "two"}]


async def test_each_line_is_warned_of_once(database: str, connect: Connect) -> None:
    connection = await connect(database)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        async with pgbus.create(database) as bus:
            for _ in range(3):
                await bus.publish({}, topic="a.b", using=connection)
            await bus.publish({}, topic="a.b", using=connection)
    first, second = [one for one in told if one.category is NoTransactionWarning]
    assert (first.filename, second.filename) == (__file__, __file__)
    assert second.lineno == first.lineno + 1


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
            lambda blocking: sync_executor(blocking).fetch(*row.insert(STATEMENTS, service="", dedup_ttl=1.0))
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
    async with connection.transaction():
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
        ("no_such_alias", "'no_such_alias' is not the alias of a database in Django's settings"),
        ("postgresql://user:secret@host/", "^this text is not the alias of a database in Django's settings"),
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
