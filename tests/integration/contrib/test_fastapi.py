"""FastAPI and Starlette: when events commit, what clients see, and a worker in the server's process."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import asyncpg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

import pgbus
from pgbus.config import for_libpq
from tests.conftest import Connect
from tests.support import eventually
from tests.support.waiting import PATIENCE
from tests.support.workers import Inbox, open_bus, running, until_idle

pytest.importorskip("fastapi", reason="FastAPI is not installed")
httpx = pytest.importorskip("httpx2", reason="httpx2 is not installed")

from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, Request  # noqa: E402 - may be skipped
from starlette.applications import Starlette  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402
from starlette.responses import PlainTextResponse  # noqa: E402
from starlette.routing import Mount, Route  # noqa: E402

from pgbus.contrib.fastapi import PgBusMiddleware, bound_bus, lifespan  # noqa: E402


@pgbus.event("orders.placed")
@dataclass
class OrderPlaced:
    order_id: int


@pytest.fixture
async def connection(database: str, connect: Connect) -> asyncpg.Connection:
    opened = await connect(database)
    await opened.execute("CREATE TABLE orders (id integer)")
    await opened.execute("ALTER TABLE orders ADD UNIQUE (id) DEFERRABLE INITIALLY DEFERRED")
    return opened


Sessions = async_sessionmaker[AsyncSession]


@asynccontextmanager
async def client(app: Any, *, root_path: str = "", run_lifespan: bool = False) -> AsyncIterator[Any]:
    """Requests in the test's event loop; what an application raises becomes a 500, as a server makes it."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, root_path=root_path)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=PATIENCE) as opened:
        if run_lifespan:
            async with app.router.lifespan_context(app):
                yield opened
        else:
            yield opened


async def counts(connection: asyncpg.Connection) -> tuple[int, int]:
    """Rows of orders, and events."""
    row = await connection.fetchrow("SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM pgbus.outbox)")
    assert row
    return tuple(row)


def shop(bus: pgbus.Bus, sessions: Sessions, *, scope: Any = "function", seen: list[str] | None = None) -> FastAPI:
    """An application that commits in its session's dependency, at the end of its `scope`."""
    log: list[str] = [] if seen is None else seen

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with sessions.begin() as session:
            yield session
        log.append("commit")

    session_dep = Annotated[AsyncSession, Depends(get_session, scope=scope)]
    bus_dep = Annotated[pgbus.BoundBus, Depends(bound_bus(bus, session_dep))]
    router = APIRouter()

    async def place(order_id: int, session: session_dep, events: bus_dep, fail: str = "") -> dict[str, int]:
        await session.execute(text("INSERT INTO orders VALUES (:id)"), {"id": order_id})
        await events.publish(OrderPlaced(order_id))
        if fail == "http":
            raise HTTPException(409, "taken")
        if fail:
            raise RuntimeError(fail)
        log.append("handler")
        return {"order_id": order_id}

    async def background(tasks: BackgroundTasks, session: session_dep, events: bus_dep) -> str:
        tasks.add_task(log.append, "background")
        await events.publish(OrderPlaced(1))
        return "ok"

    router.add_api_route("/orders/{order_id}", place, methods=["POST"], status_code=201)
    router.add_api_route("/background", background, methods=["POST"])
    app = FastAPI()
    app.include_router(router)
    app.state.get_session = get_session
    return app


async def test_row_and_event_commit_before_the_response_and_roll_back_with_an_error(
    bus: pgbus.Bus, connection: asyncpg.Connection, sessions: Sessions
) -> None:
    async with client(shop(bus, sessions)) as http:
        assert (await http.post("/orders/1")).status_code == 201
        assert await counts(connection) == (1, 1)
        assert (await http.post("/orders/2?fail=http")).status_code == 409
        assert (await http.post("/orders/3?fail=boom")).status_code == 500
        assert await counts(connection) == (1, 1)
        answer = await http.post("/orders/1")  # refused by its COMMIT
        assert answer.status_code == 500
        assert await counts(connection) == (1, 1)


@pytest.mark.parametrize(
    ("scope", "order"), [("function", ["commit", "background"]), ("request", ["background", "commit"])]
)
async def test_the_scope_of_the_session_says_whether_it_commits_before_the_response(
    bus: pgbus.Bus, connection: asyncpg.Connection, sessions: Sessions, scope: str, order: list[str]
) -> None:
    seen: list[str] = []
    async with client(shop(bus, sessions, scope=scope, seen=seen)) as http:
        assert (await http.post("/background")).status_code == 200
    assert seen == order
    assert await counts(connection) == (0, 1)


async def test_an_override_of_the_session_in_a_test_is_the_buss_too(
    bus: pgbus.Bus, connection: asyncpg.Connection, sessions: Sessions
) -> None:
    app = shop(bus, sessions)
    async with sessions() as session, client(app) as http:
        app.dependency_overrides[app.state.get_session] = lambda: session
        assert (await http.post("/orders/1")).status_code == 201
        assert (await session.execute(text("SELECT count(*) FROM pgbus.outbox"))).scalar() == 1
        await session.rollback()
    assert await counts(connection) == (0, 0)


async def test_a_sync_endpoint_publishes_in_its_blocking_session(
    bus: pgbus.Bus, database: str, connection: asyncpg.Connection
) -> None:
    engine = create_engine(for_libpq(database).replace("postgresql://", "postgresql+psycopg://", 1))
    make = sessionmaker(engine)

    def get_session() -> Iterator[Session]:
        with make.begin() as session:
            yield session

    session_dep = Annotated[Session, Depends(get_session, scope="function")]
    bus_dep = Annotated[pgbus.BoundBus, Depends(bound_bus(bus, session_dep))]
    app = FastAPI()

    def place(order_id: int, session: session_dep, events: bus_dep, fail: bool = False) -> None:
        session.execute(text("INSERT INTO orders VALUES (:id)"), {"id": order_id})
        events.publish_sync(OrderPlaced(order_id))
        if fail:
            raise HTTPException(409)

    app.add_api_route("/orders/{order_id}", place, methods=["POST"])
    async with client(app) as http:
        assert (await http.post("/orders/1")).status_code == 200
        assert (await http.post("/orders/2?fail=1")).status_code == 409
    assert await counts(connection) == (1, 1)
    engine.dispose()


def test_what_is_no_annotation_of_a_session_is_refused(bus: pgbus.Bus) -> None:
    with pytest.raises(pgbus.ConfigurationError, match="takes the annotation of the session"):
        bound_bus(bus, AsyncSession)


# ------------------------------------------------------------------------------------------------- starlette: lifespan


def calling(bus: pgbus.Bus) -> Callable[[Request], Any]:
    async def call(request: Request) -> PlainTextResponse:
        assert request.state.bus is bus
        timeout = float(request.query_params.get("timeout", PATIENCE))
        return PlainTextResponse(str(await request.state.bus.call("prices.get", {"item": "pear"}, timeout=timeout)))

    return call


async def test_a_call_without_an_answer_is_503_504_or_502(bus: pgbus.Bus, database: str) -> None:
    shop = Starlette(routes=[Route("/price", calling(bus))], middleware=[Middleware(PgBusMiddleware, bus=bus)])
    app = Starlette(routes=[Mount("/shop", app=shop)])
    async with client(app, root_path="/api") as http, open_bus(database) as other:
        answer = await http.get("/api/shop/price")
        assert (answer.status_code, answer.json()) == (503, {"detail": "Service Unavailable"})
        blocked: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        @other.procedure("prices.get")
        async def get(item: str) -> int:
            # Shielded: the call that takes too long is cancelled at its deadline, and would cancel the future with it.
            return len(item) if item != "pear" else await asyncio.shield(blocked)

        async with running(other):
            answer = await http.get("/api/shop/price?timeout=0.05")
            assert (answer.status_code, answer.json()) == (504, {"detail": "Gateway Timeout"})
            blocked.set_result(7)
            assert (await http.get("/api/shop/price")).text == "7"
            blocked = asyncio.get_running_loop().create_future()
            blocked.set_exception(pgbus.SuddenDeathException())
            answer = await http.get("/api/shop/price")
            assert (answer.status_code, answer.json()) == (502, {"detail": "Bad Gateway"})


async def test_what_a_call_raises_after_the_response_has_begun_comes_through(bus: pgbus.Bus) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise pgbus.CallTimeout("too late")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(pgbus.CallTimeout):
        await PgBusMiddleware(app, bus)({"type": "http", "method": "GET", "path": "/", "headers": []}, send, send)  # type: ignore[arg-type]
    assert len(sent) == 1


async def test_a_handler_of_the_application_for_the_error_comes_before_the_middleware(bus: pgbus.Bus) -> None:
    app = FastAPI()
    app.add_middleware(PgBusMiddleware, bus=bus)
    app.add_api_route("/price", calling(bus))

    async def explain(_: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse(f"{error.procedure} rests", 418)  # type: ignore[attr-defined]

    async with client(app) as http:
        assert (await http.get("/price")).status_code == 503
        app.add_exception_handler(pgbus.NoWorkerAvailable, explain)
        app.middleware_stack = None
        assert (await http.get("/price")).text == "prices.get rests"


async def test_a_worker_in_the_servers_process_lives_within_the_applications_lifespan(
    bus: pgbus.Bus, connection: asyncpg.Connection, sessions: Sessions
) -> None:
    steps: list[str] = []
    heard: Inbox[int] = Inbox()

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        steps.append("opened")
        yield {"color": "red"}
        workers = await connection.fetchval("SELECT count(*) FROM pgbus.workers")
        steps.append(f"closed with {workers} workers")

    @bus.listener(name="hears")
    async def hear(order: OrderPlaced) -> None:
        assert steps == ["opened"]
        heard.put(order.order_id)

    app = FastAPI(lifespan=lifespan(bus, own, run_worker=True))
    async with client(shop(bus, sessions)) as http, app.router.lifespan_context(app) as state:
        assert state == {"color": "red"}
        await http.post("/orders/5")
        assert await heard.take(1) == [5]
        await until_idle(connection)
    assert steps == ["opened", "closed with 0 workers"]


async def test_a_lifespan_without_a_worker_connects_nothing_and_closes_the_bus(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    async def opened() -> int:
        query = """SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"""
        return int(await connection.fetchval(query))

    async def none_is_left() -> bool:
        return await opened() == 0

    app = Starlette(lifespan=lifespan(bus))
    async with app.router.lifespan_context(app):
        assert await opened() == 0
        await bus.publish(OrderPlaced(1))
        assert await opened() > 0
    await eventually(none_is_left)


async def test_a_server_whose_worker_cannot_start_does_not_start(empty_database: str) -> None:
    async with open_bus(empty_database) as bus:
        app = Starlette(lifespan=lifespan(bus, run_worker=True))
        with pytest.raises(pgbus.SchemaVersionError):
            async with app.router.lifespan_context(app):
                pass
