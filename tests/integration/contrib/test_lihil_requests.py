"""Lihil: emit and sink, and buses of requests."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

import pgbus
from pgbus.testing import deliver_now
from tests.support.workers import Inbox, running, until_idle

pytest.importorskip("lihil", reason="Lihil is not installed")
httpx = pytest.importorskip("httpx2", reason="httpx2 is not installed")

from lihil import HTTPException, Lihil, Route, use  # noqa: E402 - may be skipped
from lihil.plugins.bus import BusPlugin as StockPlugin  # noqa: E402
from lihil.plugins.bus import BusTerminal as StockTerminal  # noqa: E402

from pgbus.contrib.lihil import (  # noqa: E402
    BusPlugin,
    MessageContext,
    PEventBus,
    PgBusSink,
    lifespan,
)
from tests.support.lihil_users import (  # noqa: E402
    Repo,
    Sessions,
    UserCreated,
    UserEvent,
    UserGreeted,
    client,
    counts,
    insert_user,
    terminal_of,
)

# ------------------------------------------------------------------------------------------------------- emit and sink


async def test_emit_returns_before_its_handlers_run_and_is_stored_before_the_response(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    heard: Inbox[tuple[str, dict[str, Any]]] = Inbox()
    stored: list[bool] = []

    async def hear(event: UserCreated, context: MessageContext) -> None:
        heard.put((event.name, context))

    terminal = terminal_of(bus, hear)
    route = Route("users")

    async def create(name: str, events: PEventBus) -> str:
        events.emit(
            UserCreated(name), {"request_id": "r1"}, callback=lambda done: stored.append(done.exception() is None)
        )
        return "ok"

    route.post(create, plugins=[BusPlugin(terminal)])
    async with client(route, lifespan(terminal)) as http:
        assert (await http.post("/users?name=ada")).status_code == 200
        assert (heard.items, stored, await counts(connection)) == ([], [True], (0, 1))
    async with running(bus):
        assert await heard.take(1) == [("ada", {"request_id": "r1"})]


async def test_emit_in_a_sessions_transaction_is_stored_if_and_only_if_that_commits(
    bus: pgbus.Bus, connection: asyncpg.Connection, sessions: Sessions
) -> None:
    stored: list[str] = []
    terminal = terminal_of(bus)

    def emit(session: AsyncSession, name: str) -> None:
        terminal.create_event_bus(terminal.graph, session=session).emit(
            UserCreated(name), callback=lambda _: stored.append(name)
        )

    async with sessions() as session:
        await insert_user(session, "ada")
        emit(session, "committed")
        async with session.begin_nested():
            emit(session, "released")
        async with session.begin_nested() as savepoint:
            emit(session, "undone")
            await savepoint.rollback()
        assert stored == []
        await session.commit()
        assert stored == ["committed", "released"]
        await insert_user(session, "bob")
        emit(session, "rolled back")
        await session.rollback()
        await insert_user(session, "eve")
        await session.commit()
        emit(session, "after the commit")
    await terminal.drain()
    rows = await connection.fetch("SELECT payload ->> 'name' FROM pgbus.outbox ORDER BY id")
    assert [row[0] for row in rows] == ["committed", "released", "after the commit"]
    assert stored == ["committed", "released", "after the commit"]


async def test_emit_in_a_released_savepoint_is_undone_with_the_one_around_it(
    bus: pgbus.Bus, connection: asyncpg.Connection, sessions: Sessions
) -> None:
    stored: list[str] = []
    terminal = terminal_of(bus)
    async with sessions() as session:
        await insert_user(session, "ada")
        async with session.begin_nested() as outer:
            async with session.begin_nested():
                terminal.create_event_bus(terminal.graph, session=session).emit(
                    UserCreated("eve"), callback=lambda _: stored.append("eve")
                )
            await outer.rollback()
        await session.commit()
    assert (stored, await connection.fetchval("SELECT count(*) FROM pgbus.outbox")) == ([], 0)


async def test_sink_stores_one_or_many_and_runs_nothing_here(
    bus: pgbus.Bus, connection: asyncpg.Connection, sessions: Sessions
) -> None:
    heard: Inbox[str] = Inbox()

    async def hear(event: UserEvent, _: Any) -> None:
        heard.put(event.name)

    terminal = terminal_of(bus, hear)
    events = terminal.create_event_bus(terminal.graph)
    await events.sink(UserCreated("ada"))
    await events.sink([UserCreated("bob"), UserGreeted("eve")])
    async with sessions() as session:
        await terminal.create_event_bus(terminal.graph, session=session).sink([UserCreated("kim")])
        await session.rollback()
    assert (heard.items, await counts(connection)) == ([], (0, 3))
    async with running(bus):
        assert sorted(await heard.take(2)) == ["ada", "bob"]


# ------------------------------------------------------------------------------------------------------------ requests


async def test_an_endpoints_bus_joins_its_session_and_handlers_get_that_session(
    bus: pgbus.Bus, connection: asyncpg.Connection, sessions: Sessions
) -> None:
    seen: list[AsyncSession] = []

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with sessions() as session:
            yield session

    async def hear(created: UserCreated, _: Any, session: AsyncSession) -> None:
        seen.append(session)
        await insert_user(session, f"heard {created.name}")

    terminal = terminal_of(bus, hear)
    route = Route("users")

    async def create(
        name: str, session: Annotated[AsyncSession, use(get_session, reuse=True)], events: PEventBus
    ) -> str:
        async with session.begin():
            await insert_user(session, name)
            await events.publish(UserCreated(name))
            if name == "nobody":
                raise HTTPException(problem_status=422)
        assert seen[-1] is session
        return "ok"

    route.post(create, plugins=[BusPlugin(terminal).decorate])
    async with client(route, lifespan(terminal)) as http:
        assert (await http.post("/users?name=ada")).status_code == 200
        assert await counts(connection) == (2, 1)
        assert (await http.post("/users?name=nobody")).status_code == 422
        assert await counts(connection) == (2, 1)


class Users:
    def __init__(self, session: AsyncSession) -> None:
        self.session = session


async def test_the_session_that_a_reusable_dependency_has_opened_is_the_requests(
    bus: pgbus.Bus, connection: asyncpg.Connection, sessions: Sessions
) -> None:
    async def get_session() -> AsyncIterator[AsyncSession]:
        async with sessions() as session:
            yield session

    def get_users(session: Annotated[AsyncSession, use(get_session, reuse=True)]) -> Users:
        return Users(session)

    async def hear(created: UserCreated, _: Any, repo: Repo) -> None:
        await repo.add(f"heard {created.name}")

    terminal = terminal_of(bus, hear)
    route = Route("users")

    async def create(name: str, users: Annotated[Users, use(get_users)], events: PEventBus, commit: bool) -> str:
        await insert_user(users.session, name)
        await events.publish(UserCreated(name))
        if commit:
            await users.session.commit()
        return "ok"

    route.post(create, plugins=[BusPlugin(terminal)])
    async with client(route, lifespan(terminal)) as http:
        assert (await http.post("/users?name=ada&commit=false")).status_code == 200
        assert await counts(connection) == (0, 0)
        assert (await http.post("/users?name=ada&commit=true")).status_code == 200
        assert await counts(connection) == (2, 1)


async def test_lihils_own_plugin_and_sink_work_with_ours(bus: pgbus.Bus, connection: asyncpg.Connection) -> None:
    seen: list[str] = []

    async def hear(created: UserCreated, _: Any) -> None:
        seen.append(created.name)

    route = Route("users")

    async def create(name: str, events: PEventBus) -> str:
        await events.publish(UserCreated(name))
        return "ok"

    route.post(create, plugins=[StockPlugin(terminal_of(bus, hear)).decorate])
    async with client(route) as http:
        assert (await http.post("/users?name=ada")).status_code == 200
    assert seen == ["ada"]
    stock: Any = StockTerminal(sink=PgBusSink(bus))
    await stock.create_event_bus(stock.graph).sink([UserCreated("bob"), UserCreated("eve")])
    assert await counts(connection) == (0, 3)


async def test_a_worker_in_the_servers_process_runs_what_was_emitted(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    heard: Inbox[str] = Inbox()
    steps: list[str] = []

    async def own(app: Lihil) -> AsyncIterator[None]:
        steps.append("opened")
        yield
        steps.append("closed")

    async def hear(created: UserCreated, _: Any) -> None:
        heard.put(created.name)

    terminal = terminal_of(bus, hear)
    route = Route("users")

    async def create(name: str, events: PEventBus) -> str:
        events.emit(UserCreated(name))
        return "ok"

    route.post(create, plugins=[BusPlugin(terminal)])
    async with client(route, lifespan(terminal, own, run_worker=True)) as http:
        assert (await http.post("/users?name=ada")).status_code == 200
        assert await heard.take(1) == ["ada"]
        assert steps == ["opened"]
    assert steps == ["opened", "closed"]
    assert await connection.fetchval("SELECT count(*) FROM pgbus.workers") == 0


async def test_handlers_get_sessions_of_the_applications_own_maker(
    bus: pgbus.Bus, connection: asyncpg.Connection, sessions: Sessions
) -> None:
    class OwnSession(AsyncSession): ...

    heard: Inbox[str] = Inbox()

    async def hear(created: UserCreated, _: Any, session: AsyncSession) -> None:
        await insert_user(session, created.name)
        heard.put(type(session).__name__)

    own = async_sessionmaker(sessions.kw["bind"], class_=OwnSession)
    terminal = terminal_of(bus, hear, sessions=own)
    events = terminal.create_event_bus(terminal.graph)
    await events.publish(UserCreated("ada"))
    await events.publish(UserCreated("eve"), durable=True)
    async with running(bus):
        assert await heard.take(2) == ["OwnSession", "OwnSession"]
        await until_idle(connection)
    assert await counts(connection) == (2, 2)


async def test_what_cannot_be_stored_is_a_500_though_emit_did_not_wait_for_it(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    terminal = terminal_of(bus)
    route = Route("users")

    async def create(events: PEventBus) -> str:
        events.emit(UserCreated("a\x00b"))
        return "ok"

    route.post(create, plugins=[BusPlugin(terminal)])
    async with client(route, lifespan(terminal)) as http:
        assert (await http.post("/users")).status_code == 500
    assert await counts(connection) == (0, 0)


async def test_a_test_delivers_what_was_emitted_and_not_what_publish_has_handled(
    bus: pgbus.Bus, connection: asyncpg.Connection, sessions: Sessions
) -> None:
    heard: list[str] = []

    async def hear(created: UserCreated, _: Any, session: AsyncSession) -> None:
        await insert_user(session, created.name)
        heard.append(created.name)

    terminal = terminal_of(bus, hear)
    async with sessions() as session:
        events = terminal.create_event_bus(terminal.graph, session=session)
        await events.publish(UserCreated("ada"))
        await events.publish(UserCreated("eve"), durable=True)
        assert heard == ["ada"]
        await deliver_now(bus, using=session)
        assert heard == ["ada", "eve"]
        await session.rollback()
    assert await counts(connection) == (0, 0)
