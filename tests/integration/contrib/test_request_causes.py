"""What a request publishes carries its correlation id and its trace, in each web framework."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from django.db import connections
from django.test import AsyncClient, Client
from sqlalchemy import create_engine
from sqlalchemy.orm import scoped_session, sessionmaker

import pgbus
from pgbus.config import for_libpq
from tests.conftest import Connect
from tests.support.workers import running

TRACE = "0af7651916cd43dd8448eb211c80319c"
HEADERS = {
    "x-correlation-id": "request-7",
    "traceparent": f"00-{TRACE}-b7ad6b7169203331-01",
    "tracestate": "vendor=1",
    "x-causation-id": "01a22271-f4e1-7421-9fef-5d4f65856ce1",
}
CARRIED = {name.removeprefix("x-").replace("-", "_"): value for name, value in HEADERS.items()}


async def published(connection: asyncpg.Connection) -> list[dict[str, str]]:
    """The headers of what waits in the outbox, in order, of those that say the cause."""
    found = [
        json.loads(row[0] or "{}") for row in await connection.fetch("SELECT headers FROM pgbus.outbox ORDER BY id")
    ]
    return [{name: value for name, value in headers.items() if name in CARRIED} for headers in found]


def differs(first: dict[str, str], second: dict[str, str]) -> bool:
    return first["correlation_id"] != second["correlation_id"]


@pytest.mark.parametrize("path", ["/orders", "/async", "/streamed"])
async def test_flask(database: str, connection: asyncpg.Connection, path: str) -> None:
    pytest.importorskip("flask", reason="Flask is not installed")
    from flask import Flask

    from pgbus.contrib.flask import PgBus

    engine = create_engine(for_libpq(database).replace("postgresql://", "postgresql+psycopg://", 1))
    bus = pgbus.create(database)
    app = Flask(__name__)
    session = scoped_session(sessionmaker(engine))
    events = PgBus(bus, session=session, app=app)

    @app.get("/orders")
    def place() -> str:
        events.bus.publish_sync({}, topic="orders.placed")
        session.commit()
        session.remove()
        return "placed"

    @app.get("/async")
    async def place_async() -> str:
        return place()

    @app.get("/streamed")
    def stream() -> Iterator[str]:
        yield "first"
        yield place()

    def requests() -> None:
        client = app.test_client()
        for headers in (HEADERS, {}, {}):
            assert client.get(path, headers=headers).text.endswith("placed")

    await asyncio.to_thread(requests)
    bus.close_sync()
    engine.dispose()
    first, second, third = await published(connection)
    assert first == CARRIED
    assert differs(second, third)
    assert pgbus.current_cause() is None


async def test_litestar(bus: pgbus.Bus, connection: asyncpg.Connection) -> None:
    pytest.importorskip("litestar", reason="Litestar is not installed")
    from litestar import Litestar, Request, post
    from litestar.testing import AsyncTestClient

    from pgbus.contrib.litestar import PgBusPlugin

    async def emit(request: Request[Any, Any, Any]) -> None:
        request.app.emit("orders.placed", order_id=1)

    async def publish() -> None:
        await bus.publish({}, topic="orders.placed")

    handlers: list[Any] = [post("/emitted")(emit), post("/published")(publish)]
    plugin = PgBusPlugin(bus, role="producer", allow_unknown=True)
    async with AsyncTestClient(Litestar(handlers, plugins=[plugin])) as client:
        assert (await client.post("/emitted", headers=HEADERS)).status_code == 201
        assert (await client.post("/published", headers=HEADERS)).status_code == 201
        await client.post("/published")
        await client.post("/emitted")
    first, second, third, fourth = await published(connection)
    assert (first, second) == (CARRIED, CARRIED)
    assert differs(third, fourth)


async def test_lihil(bus: pgbus.Bus, connection: asyncpg.Connection) -> None:
    pytest.importorskip("lihil", reason="Lihil is not installed")
    httpx = pytest.importorskip("httpx2", reason="httpx2 is not installed")
    from functools import partial

    from lihil import Lihil, Route

    from pgbus.contrib.lihil import BusPlugin, PEventBus, PgBusMiddleware, lifespan
    from tests.support.lihil_users import UserCreated, terminal_of

    terminal = terminal_of(bus)

    async def create(name: str, events: PEventBus) -> str:
        events.emit(UserCreated(name))
        return "ok"

    route = Route("users")
    route.post(create, plugins=[BusPlugin(terminal)])
    app = Lihil(route, lifespan=lifespan(terminal))
    app.add_middleware(partial(PgBusMiddleware, bus=bus))
    transport = httpx.ASGITransport(app)
    async with app._lifespan(), httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for headers in (HEADERS, {}, {}):
            assert (await client.post("/users?name=ada", headers=headers)).status_code == 200
        first, second, third = await published(connection)
    assert first == CARRIED
    assert differs(second, third)


async def test_starlette_and_what_its_event_brings_about(bus: pgbus.Bus, connection: asyncpg.Connection) -> None:
    httpx = pytest.importorskip("httpx2", reason="httpx2 is not installed")
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from pgbus.contrib.starlette import PgBusMiddleware

    heard: asyncio.Queue[str] = asyncio.Queue()

    @bus.listener("orders.placed", name="pack")
    async def pack(_: dict[str, Any]) -> None:
        await bus.publish({}, topic="parcels.packed")

    @bus.listener("parcels.packed", name="send")
    async def send(_: dict[str, Any], context: pgbus.Context) -> None:
        heard.put_nowait(context.correlation_id)

    async def place(_: Request) -> Response:
        await bus.publish({}, topic="orders.placed")
        return Response()

    app = Starlette(routes=[Route("/", place)], middleware=[Middleware(PgBusMiddleware, bus=bus)])
    async with running(bus), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        await client.get("/", headers={"x-request-id": "request-8"})
        assert await asyncio.wait_for(heard.get(), 60) == "request-8"
    names = await connection.fetch("SELECT name, depth FROM pgbus.correlation_tree('request-8') WHERE kind = 'event'")
    assert [tuple(row) for row in names] == [("orders.placed", 0), ("parcels.packed", 1)]


async def test_django(django_database: str, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    def requests() -> None:
        for name, headers in (("bolt", HEADERS), ("nut", {}), ("nail", {})):
            assert Client().get("/items", {"name": name}, headers=headers).status_code == 200

        connections.close_all()

    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    await asyncio.to_thread(requests)
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", False)
    await AsyncClient().get("/aitems", {"name": "axle"}, headers=HEADERS)
    first, second, third, fourth = await published(await connect(django_database))
    assert (first, fourth) == (CARRIED, CARRIED)
    assert differs(second, third)
