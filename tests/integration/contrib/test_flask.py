"""Flask: the extension, its scoped session, and what clients see."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import pgbus
from pgbus.config import for_libpq
from tests.conftest import Connect
from tests.support.waiting import PATIENCE
from tests.support.workers import running

pytest.importorskip("flask", reason="Flask is not installed")

from flask import Flask, abort, request
from flask.globals import app_ctx
from werkzeug.exceptions import ServiceUnavailable

from pgbus.contrib.flask import PgBus


@pytest.fixture
async def connection(database: str, connect: Connect) -> asyncpg.Connection:
    opened = await connect(database)
    await opened.execute("CREATE TABLE orders (id integer)")
    return opened


@pytest.fixture
def session(database: str) -> Iterator[scoped_session[Session]]:
    engine = create_engine(for_libpq(database).replace("postgresql://", "postgresql+psycopg://", 1))
    # As Flask-SQLAlchemy's: an async view runs in another thread, and is to have the same session.
    yield scoped_session(sessionmaker(engine), scopefunc=lambda: id(app_ctx._get_current_object()))  # type: ignore[attr-defined]
    engine.dispose()


@pytest.fixture
def plain_bus(database: str) -> Iterator[pgbus.Bus]:
    bus = pgbus.create(database)
    yield bus
    bus.close_sync()


def shop(events: PgBus, session: scoped_session[Session], bus: pgbus.Bus) -> Flask:
    """An application made by a factory, with Flask-SQLAlchemy's habits: views commit, teardown removes."""
    app = Flask(__name__)
    events.init_app(app)

    @app.post("/orders/<int:order_id>")
    def place(order_id: int) -> str:
        session.execute(text("INSERT INTO orders VALUES (:id)"), {"id": order_id})
        events.bus.publish_sync({"order_id": order_id}, topic="orders.placed")
        if order_id == 13:
            abort(409)
        session.commit()
        return "placed"

    @app.post("/async/<int:order_id>")
    async def place_async(order_id: int) -> str:
        return place(order_id)

    @app.get("/price")
    def price() -> str:
        timeout = float(request.args.get("timeout", PATIENCE))
        return str(bus.call_sync("prices.get", {"item": "pear"}, timeout=timeout))

    @app.teardown_appcontext
    def remove(_: BaseException | None) -> None:
        session.remove()

    return app


async def test_row_and_event_commit_together_in_the_scoped_session(
    plain_bus: pgbus.Bus, session: scoped_session[Session], connection: asyncpg.Connection
) -> None:
    events = PgBus(plain_bus, session=session)
    app = shop(events, session, plain_bus)
    assert app.extensions["pgbus"] is events
    client = app.test_client()
    assert client.post("/orders/1").text == "placed"
    assert (await asyncio.to_thread(client.post, "/async/2")).text == "placed"
    assert client.post("/orders/13").status_code == 409
    published = await connection.fetch("SELECT payload ->> 'order_id' FROM pgbus.outbox ORDER BY id")
    assert [row[0] for row in published] == ["1", "2"]
    assert await connection.fetchval("SELECT count(*) FROM orders") == 2


def test_a_call_without_an_answer_is_503_or_504_as_the_application_renders_it(
    plain_bus: pgbus.Bus, session: scoped_session[Session]
) -> None:
    app = shop(PgBus(plain_bus, session=session), session, plain_bus)
    answer = app.test_client().get("/price")
    assert answer.status_code == 503
    assert "Service Unavailable" in answer.text
    app = shop(PgBus(plain_bus, session=session), session, plain_bus)
    app.register_error_handler(ServiceUnavailable, lambda error: (f"sorry, {error.code}", 503))
    assert app.test_client().get("/price").text == "sorry, 503"


async def test_a_call_that_takes_too_long_is_504(
    plain_bus: pgbus.Bus, session: scoped_session[Session], bus: pgbus.Bus
) -> None:
    @bus.procedure("prices.get")
    async def get(item: str) -> int:
        await asyncio.Event().wait()
        return 0

    app = shop(PgBus(plain_bus, session=session), session, plain_bus)
    async with running(bus):
        answer = await asyncio.to_thread(app.test_client().get, "/price?timeout=0.1")
    assert answer.status_code == 504


def test_the_extension_may_be_given_its_application_at_once(
    plain_bus: pgbus.Bus, session: scoped_session[Session]
) -> None:
    app = Flask(__name__)
    assert PgBus(plain_bus, session=session, app=app) is app.extensions["pgbus"]
