"""An application's start, roles and end, with and without the plugin."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import pytest
from litestar import Litestar, Request, post
from litestar.events import BaseEventEmitterBackend, listener
from litestar.testing import AsyncTestClient

import pgbus
from pgbus.contrib.litestar import PgBusEventEmitter, PgBusPlugin
from pgbus.contrib.litestar import listener as durable
from pgbus.errors import SchemaVersionError
from pgbus.testing import deliver_now
from tests.conftest import Connect
from tests.support import eventually
from tests.support.faultproxy import FaultProxy
from tests.support.services import Services
from tests.support.waiting import PATIENCE
from tests.support.workers import Inbox, open_bus, running


@post("/")
async def emit(request: Request[Any, Any, Any]) -> None:
    request.app.emit("user_created", email="adam")


# ------------------------------------------------------------------------------------------------- without the plugin


async def test_an_emitter_without_the_plugin_delivers_what_is_emitted_before_the_end(bus: pgbus.Bus) -> None:
    """L6: also from threads."""
    heard: list[str] = []

    @listener("user_created")
    async def hear(email: str) -> None:
        heard.append(email)

    emitter = partial(PgBusEventEmitter, bus=bus, drain_timeout=PATIENCE)
    app = Litestar([emit], listeners=[hear], event_emitter_backend=emitter)  # type: ignore[arg-type,unused-ignore]
    assert isinstance(app.event_emitter, BaseEventEmitterBackend)
    for _ in range(2):  # an emitter may be entered again
        async with AsyncTestClient(app) as client:
            assert (await client.post("/")).status_code == 201
            await asyncio.to_thread(app.emit, "user_created", email="eve")
            threads = [threading.Thread(target=app.emit, args=("user_created", f"thread {n}")) for n in range(10)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert sorted(heard) == sorted(["adam", "eve", *(f"thread {n}" for n in range(10))])
        heard.clear()


async def test_a_producer_leaves_its_events_to_a_worker(bus: pgbus.Bus, database: str) -> None:
    heard: Inbox[str] = Inbox()

    @listener("user_created")
    async def hear(email: str) -> None:
        heard.put(email)

    app = Litestar([emit], listeners=[hear], plugins=[PgBusPlugin(bus, role="producer")])
    async with running(bus):  # so that the listener is known
        pass
    async with AsyncTestClient(app) as client:
        assert (await client.post("/")).status_code == 201
    assert heard.items == []
    async with running(bus):
        assert await heard.take(1) == ["adam"]


# ---------------------------------------------------------------------------------------------------------------- ends


async def test_the_end_tries_each_event_once_and_does_not_wait_for_a_retry(bus: pgbus.Bus, connect: Connect) -> None:
    tried: list[int] = []
    slow = pgbus.RetryPolicy(max_attempts=5, base_delay=600.0)

    @durable("counted", retry=slow, concurrency=1)
    async def fail(number: int) -> None:
        tried.append(number)
        raise ValueError("not now")

    app = Litestar(listeners=[fail], plugins=[PgBusPlugin(bus, drain_timeout=PATIENCE)])
    async with asyncio.timeout(PATIENCE):
        async with AsyncTestClient(app):
            for number in range(20):
                app.emit("counted", number)
    assert sorted(tried) == list(range(20))
    connection = await connect(str(bus.config.dsn))
    assert await connection.fetchval("SELECT count(*) FROM pgbus.deliveries WHERE attempt = 2") == 20


async def test_the_end_hangs_neither_on_a_handler_nor_on_what_waits_behind_it(database: str) -> None:
    begun = asyncio.Event()

    @durable("counted", concurrency=1)
    async def hang(number: int) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with open_bus(database, grace=0.1) as bus:
        app = Litestar(listeners=[hang], plugins=[PgBusPlugin(bus, drain_timeout=0.1)])
        async with asyncio.timeout(PATIENCE), app.lifespan():
            for number in range(5):
                app.emit("counted", number)
            await begun.wait()


async def test_the_end_does_not_hang_on_a_database_that_is_gone(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    @listener("counted")
    async def hear(number: int) -> None: ...

    async with FaultProxy(database) as proxy, open_bus(proxy.dsn, grace=0.1) as bus:
        app = Litestar(listeners=[hear], plugins=[PgBusPlugin(bus, drain_timeout=0.5)], logging_config=None)
        async with asyncio.timeout(60), app.lifespan():
            app.emit("counted", 1)
            await app.event_emitter.flush()
            proxy.refuse()
            app.emit("counted", 2)
    assert re.search("counted was not published, and is lost|1 events were not published", caplog.text)


async def test_what_a_listener_emits_while_the_application_ends_is_not_lost(bus: pgbus.Bus, connect: Connect) -> None:
    may_go_on = asyncio.Event()
    begun = asyncio.Event()

    @listener("parent")
    async def emit_child() -> None:
        begun.set()
        await may_go_on.wait()
        app.emit("child")

    @listener("child")
    async def hear() -> None: ...

    app = Litestar(listeners=[emit_child, hear], plugins=[PgBusPlugin(bus, drain_timeout=PATIENCE)])
    lifespan = app.lifespan()
    await lifespan.__aenter__()
    app.emit("parent")
    await begun.wait()
    end = asyncio.create_task(lifespan.__aexit__(None, None, None))
    await asyncio.sleep(0)
    may_go_on.set()
    await end
    connection = await connect(str(bus.config.dsn))
    assert await connection.fetchval("SELECT count(*) FROM pgbus.events WHERE topic = 'child'") == 1


async def test_a_worker_runs_within_everything_that_the_application_opens(bus: pgbus.Bus) -> None:
    """Whatever the order of the plugins, and though an emitter is the first to enter and the last to leave."""
    opened: set[str] = set()
    seen: list[set[str]] = []

    @listener("counted")
    async def look(number: int) -> None:
        seen.append(set(opened))

    @asynccontextmanager
    async def engine(app: Litestar) -> AsyncIterator[None]:
        opened.add("engine")
        yield
        opened.discard("engine")

    class Engine(PgBusPlugin):
        def __init__(self) -> None: ...

        def on_app_init(self, app_config: Any) -> Any:
            app_config.lifespan.append(engine)
            return app_config

        def on_cli_init(self, cli: Any) -> None: ...

    app = Litestar(
        listeners=[look],
        plugins=[PgBusPlugin(bus, drain_timeout=PATIENCE), Engine()],
        on_startup=[lambda: opened.add("started")],
        on_shutdown=[lambda: opened.discard("started")],
    )
    await bus.publish({"number": 0}, topic="counted")
    async with AsyncTestClient(app):
        app.emit("counted", 1)
    assert seen == [{"engine", "started"}] * 2
    assert opened == set()


async def test_an_application_does_not_start_in_a_database_without_the_bus(empty_database: str) -> None:
    async with open_bus(empty_database) as bus:
        app = Litestar(plugins=[PgBusPlugin(bus)])
        with pytest.raises(SchemaVersionError):
            async with app.lifespan():
                pass


async def test_an_event_emitted_during_an_outage_is_published_after_it(
    database: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    @listener("counted")
    async def hear(number: int) -> None: ...

    async with FaultProxy(database) as proxy, open_bus(proxy.dsn) as bus:
        app = Litestar(listeners=[hear], plugins=[PgBusPlugin(bus, role="producer")], logging_config=None)
        connection = await connect(database)
        async with app.lifespan():
            proxy.refuse()
            app.emit("counted", 1)
            await eventually(lambda: "waits for the database" in caplog.text)
            await proxy.accept()

            async def is_there() -> bool:
                return bool(await connection.fetchval("SELECT count(*) FROM pgbus.outbox"))

            await eventually(is_there)


# ---------------------------------------------------------------------------------------------------- a killed process

EMBEDDED = """
import os

import asyncpg
import pgbus
from litestar import Litestar, Request, post
from litestar.events import listener
from pgbus.contrib.litestar import PgBusPlugin


@listener("user_created")
async def send_mail(email: str) -> None:
    connection = await asyncpg.connect(os.environ["PGBUS_DSN"])
    await connection.execute("INSERT INTO mails VALUES ($1)", email)
    await connection.close()


@post("/{email:str}")
async def create_user(request: Request, email: str) -> None:
    request.app.emit("user_created", email=email)


bus = pgbus.create(service_name="accounts")
app = Litestar([create_user], listeners=[send_mail], plugins=[PgBusPlugin(bus)])
"""


async def test_what_a_server_has_answered_with_2xx_is_delivered_though_it_is_killed(services: Services) -> None:
    directory = services.write("app", "", app=EMBEDDED)
    command = (sys.executable, "-W", "ignore", "-m", "uvicorn", "app:app", "--port", "0")
    await services.connection.execute("CREATE TABLE mails (address text)")
    told = [f"user{number}" for number in range(5)]
    async with (
        services.process(*command, cwd=directory) as killed,
        httpx.AsyncClient(base_url=await killed.address(), timeout=PATIENCE) as client,
        services.connection.transaction(),
    ):
        await services.connection.execute("LOCK TABLE mails")
        for email in told:
            assert (await client.post(f"/{email}")).status_code == 201
        killed.child.send_signal(signal.SIGKILL)
        await killed.ends()
    async with services.process(*command, cwd=directory) as web:
        await services.settled()
        web.child.send_signal(signal.SIGTERM)
        assert await web.ends() in (0, -signal.SIGTERM)  # uvicorn ends by the signal when it is through
    mails = await services.connection.fetch("SELECT DISTINCT address FROM mails ORDER BY 1")
    assert [mail["address"] for mail in mails] == told


# ------------------------------------------------------------------------------------------------------ pgbus.testing


async def test_listeners_of_an_application_run_where_a_test_delivers(bus: pgbus.Bus) -> None:
    heard: list[tuple[str, int]] = []

    @listener("user_created")
    def hear(email: str, context: pgbus.Context) -> None:
        heard.append((email, context.attempt))

    app = Litestar([emit], listeners=[hear], plugins=[PgBusPlugin(bus, role="producer")])
    async with AsyncTestClient(app) as client:
        await client.post("/")
    [attempt] = await deliver_now(bus)
    assert (attempt.listener_name.rpartition(".")[2], attempt.outcome) == ("hear", "done")
    assert heard == [("adam", 1)]
