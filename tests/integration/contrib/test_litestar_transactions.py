"""Which transaction an event joins, with advanced-alchemy in both of its modes: (users, events) after each request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg
import pytest
from advanced_alchemy.extensions.litestar import (
    AsyncSessionConfig,
    SQLAlchemyAsyncConfig,
    SQLAlchemyPlugin,
    SQLAlchemySyncConfig,
)
from litestar import Litestar, Request, WebSocket, post, websocket
from litestar.background_tasks import BackgroundTask
from litestar.di import NamedDependency
from litestar.events import listener
from litestar.exceptions import HTTPException
from litestar.response import Response
from litestar.testing import AsyncTestClient
from sqlalchemy import create_engine, pool, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import pgbus
from pgbus.config import for_asyncpg
from pgbus.contrib.litestar import PgBusPlugin
from pgbus.contrib.litestar import listener as durable
from pgbus.errors import InvalidEventError
from tests.conftest import Connect
from tests.support import eventually
from tests.support.workers import QUICK_RETRY

AsyncRequest: TypeAlias = Request[Any, Any, Any]
DbSession: TypeAlias = NamedDependency[AsyncSession]
SyncSession: TypeAlias = NamedDependency[Session]

ADD = text("INSERT INTO users (email) VALUES ('adam')")
AUTOCOMMIT = "autocommit"

# In manual mode, who forgets to commit is warned that the event is lost with the rows.
may_be_uncommitted = pytest.mark.filterwarnings("ignore::pgbus.errors.NoTransactionWarning")


@listener("user_created")
async def hear(**kwargs: Any) -> None: ...


class Shop:
    """An application on a database with a table of users."""

    def __init__(self, client: AsyncTestClient[Litestar], connection: asyncpg.Connection) -> None:
        self.client = client
        self.connection = connection

    async def post(self, path: str = "/") -> int:
        return (await self.client.post(path)).status_code

    async def counts(self) -> tuple[int, int]:
        """Users, and events, be they in the outbox still or in the log; when all that is in the background is done."""
        query = """SELECT (SELECT count(*) FROM users),
                          (SELECT count(*) FROM pgbus.outbox) + (SELECT count(*) FROM pgbus.events)"""
        row = await self.connection.fetchrow(query)
        assert row
        return row[0], row[1]


OpenShop = Callable[..., Any]


@pytest.fixture(params=[AUTOCOMMIT, None], ids=["autocommit", "manual"])
def mode(request: pytest.FixtureRequest) -> str | None:
    return request.param


@pytest.fixture
async def open_shop(bus: pgbus.Bus, database: str, connect: Connect, mode: str | None) -> OpenShop:
    connection = await connect(database)
    await connection.execute("CREATE TABLE users (email text UNIQUE DEFERRABLE INITIALLY DEFERRED)")

    @asynccontextmanager
    async def open_it(*handlers: Any, sync: bool = False, **options: Any) -> AsyncIterator[Shop]:
        app = Litestar(
            list(handlers),
            listeners=[hear],
            plugins=[PgBusPlugin(bus, role="producer", **options), SQLAlchemyPlugin(config(database, mode, sync=sync))],
        )
        async with AsyncTestClient(app, raise_server_exceptions=False) as client:
            yield Shop(client, connection)

    return open_it


def config(dsn: str, mode: str | None, *, sync: bool) -> Any:
    if sync:
        engine = create_engine(dsn.replace("postgresql://", "postgresql+psycopg://"), poolclass=pool.NullPool)
        return SQLAlchemySyncConfig(engine_instance=engine, before_send_handler=mode)
    return SQLAlchemyAsyncConfig(
        engine_instance=unpooled_engine(dsn),
        session_config=AsyncSessionConfig(expire_on_commit=False),
        before_send_handler=mode,
    )


def unpooled_engine(dsn: str) -> AsyncEngine:
    """The test client's application has an event loop of its own, and no connection may outlive that."""
    return create_async_engine("postgresql+asyncpg://", connect_args={"dsn": for_asyncpg(dsn)}, poolclass=pool.NullPool)


def expected(mode: str | None, *, autocommit: tuple[int, int], manual: tuple[int, int]) -> tuple[int, int]:
    return autocommit if mode == AUTOCOMMIT else manual


@may_be_uncommitted
async def test_a_row_and_an_event_are_committed_together_or_not_at_all(open_shop: OpenShop, mode: str | None) -> None:
    @post("/")
    async def create(request: AsyncRequest, db_session: DbSession) -> None:
        await db_session.execute(ADD)
        request.app.emit("user_created", email="adam")

    async with open_shop(create) as shop:
        assert await shop.post() == 201
        assert await shop.counts() == expected(mode, autocommit=(1, 1), manual=(0, 0))


@pytest.mark.parametrize("error", [HTTPException(status_code=400), ValueError("no")])
async def test_nothing_is_left_of_a_request_that_fails(open_shop: OpenShop, error: Exception) -> None:
    @post("/")
    async def create(request: AsyncRequest, db_session: DbSession) -> None:
        await db_session.execute(ADD)
        request.app.emit("user_created", email="adam")
        raise error

    async with open_shop(create) as shop:
        assert await shop.post() in (400, 500)
    assert await shop.counts() == (0, 0)


@pytest.mark.parametrize("emits_after_commit", [False, True])
async def test_an_event_and_an_explicit_commit_may_come_in_any_order(
    open_shop: OpenShop, emits_after_commit: bool
) -> None:
    @post("/")
    async def create(request: AsyncRequest, db_session: DbSession) -> None:
        await db_session.execute(ADD)
        if not emits_after_commit:
            request.app.emit("user_created", email="adam")
        await db_session.commit()
        if emits_after_commit:
            request.app.emit("user_created", email="adam")

    async with open_shop(create) as shop:
        assert await shop.post() == 201
        assert await shop.counts() == (1, 1)


async def test_an_event_of_a_handler_without_a_session_is_stored_before_the_response(open_shop: OpenShop) -> None:
    @post("/")
    async def create(request: AsyncRequest) -> None:
        request.app.emit("user_created", email="adam")

    async with open_shop(create) as shop:
        assert await shop.post() == 201
        assert await shop.counts() == (0, 1)


async def test_an_event_of_a_handler_without_a_session_that_fails_is_dropped(open_shop: OpenShop) -> None:
    @post("/")
    async def create(request: AsyncRequest) -> None:
        request.app.emit("user_created", email="adam")
        raise HTTPException(status_code=400)

    async with open_shop(create) as shop:
        assert await shop.post() == 400
    assert await shop.counts() == (0, 0)


@may_be_uncommitted
async def test_a_sync_handler_in_a_thread_joins_the_session_too(open_shop: OpenShop, mode: str | None) -> None:
    @post("/", sync_to_thread=True)
    def create(request: AsyncRequest, db_session: SyncSession) -> None:
        db_session.execute(ADD)
        request.app.emit("user_created", email="adam")

    async with open_shop(create, sync=True) as shop:
        assert await shop.post() == 201
        assert await shop.counts() == expected(mode, autocommit=(1, 1), manual=(0, 0))


@may_be_uncommitted
async def test_a_thread_of_a_handler_with_an_async_session_joins_it_too(open_shop: OpenShop, mode: str | None) -> None:
    @post("/")
    async def create(request: AsyncRequest, db_session: DbSession) -> None:
        await db_session.execute(ADD)
        await asyncio.to_thread(request.app.emit, "user_created", email="adam")

    async with open_shop(create) as shop:
        assert await shop.post() == 201
        assert await shop.counts() == expected(mode, autocommit=(1, 1), manual=(0, 0))


async def test_a_commit_that_fails_takes_the_event_with_it(open_shop: OpenShop, mode: str | None) -> None:
    """advanced-alchemy keeps the error of its own commit to itself; one of the handler's comes through."""

    @post("/")
    async def create(request: AsyncRequest, db_session: DbSession) -> None:
        await db_session.execute(ADD)
        request.app.emit("user_created", email="adam")
        if mode is None:
            await db_session.commit()

    async with open_shop(create) as shop:
        assert await shop.post() == 201
        assert await shop.post() == (201 if mode == AUTOCOMMIT else 500)
        assert await shop.counts() == (1, 1)


async def test_a_client_is_told_500_when_an_event_cannot_be_persisted(open_shop: OpenShop) -> None:
    @post("/")
    async def create(request: AsyncRequest) -> None:
        request.app.emit("user_created", email="adam")

    async with open_shop(create) as shop:
        await shop.connection.execute("""
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END';
            CREATE TRIGGER refuse BEFORE INSERT ON pgbus.outbox FOR EACH ROW EXECUTE FUNCTION refuse();
        """)
        assert await shop.post() == 500
    assert await shop.counts() == (0, 0)


async def test_an_argument_that_is_refused_leaves_the_transaction_as_it_was(
    open_shop: OpenShop, mode: str | None
) -> None:
    refused: list[str] = []

    @post("/")
    async def create(request: AsyncRequest, db_session: DbSession) -> None:
        await db_session.execute(ADD)
        try:
            request.app.emit("user_created", email="\x00")
        except InvalidEventError as error:
            refused.append(error.field)
        await db_session.commit()

    async with open_shop(create) as shop:
        assert await shop.post() == 201
        assert await shop.counts() == (1, 0)
    assert refused == ["payload"]


async def test_a_savepoint_that_is_rolled_back_takes_its_events_with_it(open_shop: OpenShop) -> None:
    @post("/")
    async def create(request: AsyncRequest, db_session: DbSession) -> None:
        await db_session.execute(ADD)
        nested = await db_session.begin_nested()
        request.app.emit("user_created", email="eve")
        await nested.rollback()
        request.app.emit("user_created", email="adam")
        await db_session.commit()

    async with open_shop(create) as shop:
        assert await shop.post() == 201
        assert await shop.counts() == (1, 1)


async def test_a_session_that_is_given_is_joined_and_what_else_is_given_is_refused(
    open_shop: OpenShop, database: str, mode: str | None
) -> None:
    engine = unpooled_engine(database)

    @post("/")
    async def create(request: AsyncRequest) -> None:
        async with AsyncSession(engine) as session, session.begin():
            await session.execute(ADD)
            request.app.emit("user_created", email="adam", pgbus_using=session)
        async with AsyncSession(engine) as session:
            request.app.emit("user_created", email="eve", pgbus_using=session)
            await session.rollback()

    @post("/engine")
    async def misuse(request: AsyncRequest) -> None:
        request.app.emit("user_created", pgbus_using=engine)

    async with open_shop(create, misuse) as shop:
        assert await shop.post() == 201
        assert await shop.counts() == (1, 1)
        assert await shop.post("/engine") == 500
    assert await shop.counts() == (1, 1)


@may_be_uncommitted
async def test_the_bus_that_a_handler_asks_for_is_bound_to_its_session(open_shop: OpenShop, mode: str | None) -> None:
    @post("/")
    async def create(db_session: DbSession, bus: NamedDependency[pgbus.BoundBus]) -> None:
        await db_session.execute(ADD)
        await bus.publish({"email": "adam"}, topic="user_created")

    async with open_shop(create) as shop:
        assert await shop.post() == 201
        assert await shop.counts() == expected(mode, autocommit=(1, 1), manual=(0, 0))


async def test_sessions_of_ones_own_are_found_by_the_plugins_option(open_shop: OpenShop, database: str) -> None:
    engine = unpooled_engine(database)

    @post("/")
    async def create(request: AsyncRequest) -> None:
        async with AsyncSession(engine) as session:
            request.scope["own_session"] = session
            await session.execute(ADD)
            request.app.emit("user_created", email="adam")
            await session.rollback()
            await session.execute(ADD)
            request.app.emit("user_created", email="eve")
            await session.commit()

    async with open_shop(create, session=lambda scope: scope.get("own_session")) as shop:
        assert await shop.post() == 201
        assert await shop.counts() == (1, 1)


async def test_events_outside_of_a_request_are_published_in_their_own_transaction(
    open_shop: OpenShop,
) -> None:
    async def later(app: Litestar) -> None:
        app.emit("user_created", email="in the background")

    @post("/")
    async def create(request: AsyncRequest, db_session: DbSession) -> Response[None]:
        return Response(None, background=BackgroundTask(later, request.app))

    @websocket("/ws")
    async def talk(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        socket.app.emit("user_created", email="of a websocket")
        await socket.close()

    async with open_shop(create, talk) as shop:
        assert await shop.post() == 201
        with await shop.client.websocket_connect("/ws"):
            pass
        shop.client.app.emit("user_created", email="of a script")
        await asyncio.to_thread(shop.client.app.emit, "user_created", email="of a thread")
    assert await shop.counts() == (0, 4)


# ------------------------------------------------------------------------------------------------------ in a listener


async def test_what_a_listener_emits_is_published_once_it_has_succeeded(bus: pgbus.Bus, connect: Connect) -> None:
    attempts: list[str] = []

    @durable("user_created", retry=QUICK_RETRY)
    async def from_the_loop(context: pgbus.Context) -> None:
        app.emit("child", f"loop {context.attempt}")
        attempts.append("loop")
        if context.attempt == 1:
            raise ValueError("not yet")

    @durable("user_created", retry=QUICK_RETRY)
    def from_a_thread(context: pgbus.Context) -> None:
        app.emit("child", f"thread {context.attempt}")
        attempts.append("thread")
        if context.attempt == 1:
            raise ValueError("not yet")

    @durable("user_created", retry=QUICK_RETRY, transactional=True)
    async def in_a_transaction(connection: asyncpg.Connection, context: pgbus.Context) -> None:
        await connection.execute("INSERT INTO users VALUES ($1)", context.attempt)
        app.emit("child", f"transaction {context.attempt}")
        attempts.append("transaction")
        if context.attempt == 1:
            raise ValueError("not yet")

    @listener("child")
    async def hear_child(text: str) -> None: ...

    listeners = [from_the_loop, from_a_thread, in_a_transaction, hear_child]
    app = Litestar(listeners=listeners, plugins=[PgBusPlugin(bus)])
    connection = await connect(str(bus.config.dsn))
    await connection.execute("CREATE TABLE users (attempt integer)")

    async def children() -> list[str]:
        query = "SELECT payload #>> '{*,0}' FROM pgbus.events WHERE topic = 'child'"
        return sorted(row[0] for row in await connection.fetch(query))

    async with AsyncTestClient(app):
        app.emit("user_created")

        async def are_there() -> bool:
            return len(await children()) == 3

        await eventually(are_there)
    assert sorted(attempts) == sorted(["loop", "thread", "transaction"] * 2)
    assert await children() == ["loop 2", "thread 2", "transaction 2"]
    assert [row[0] for row in await connection.fetch("SELECT attempt FROM users")] == [2]
