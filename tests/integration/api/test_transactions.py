"""Events of an API within the transactions of those who fire and of those who hear them."""

from __future__ import annotations

import asyncpg
import psycopg

import pgbus
from pgbus import EventMessage
from tests.conftest import Connect
from tests.support import eventually
from tests.support.auth import Heard, outcomes, working


async def test_an_event_lives_and_dies_with_the_transaction_it_is_fired_in(
    bus: pgbus.Bus, database: str, connect: Connect
) -> None:
    heard = Heard()
    bus.auth.user_deleted.listen(lambda username: heard(username), listener_name="gone")
    connection = await connect(database)
    async with working(bus):
        transaction = connection.transaction()
        await transaction.start()
        await bus.auth.user_deleted.fire_async(username="rolled back", using=connection)
        await transaction.rollback()
        async with connection.transaction():
            await bus.auth.user_deleted.fire_async(username="committed", using=connection)
            await bus.auth.user_deleted.fire_async(username="option", bus_options={"using": connection})
        assert await heard.wait(2) == ["committed", "option"]
    assert await connection.fetchval("SELECT count(*) FROM pgbus.events") == 2


async def test_a_blocking_connection_may_be_used_even_on_the_event_loop(bus: pgbus.Bus, database: str) -> None:
    with psycopg.connect(database) as connection:
        bus.auth.user_deleted.fire(username="adam", using=connection)
        connection.rollback()
        fired = bus.auth.user_deleted.fire(username="eve", using=connection, bus_options={"key": "k"})
    assert fired.key == "k"
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT event_id, headers FROM pgbus.outbox").fetchall() == [
            (fired.event_id, {"api_version": "3"})
        ]


async def test_a_transactional_handler_writes_with_its_acknowledgement(
    bus: pgbus.Bus, database: str, connect: Connect
) -> None:
    connection = await connect(database)
    await connection.execute("CREATE TABLE page_views (uuid text PRIMARY KEY, url text)")

    async def handle_page_view(event: EventMessage, uuid: str, url: str, database: asyncpg.Connection) -> None:
        await database.execute("INSERT INTO page_views VALUES ($1, $2)", uuid, url)

    bus.auth.anything.listen(handle_page_view, listener_name="views", bus_options={"transactional": True})
    async with working(bus):
        await bus.auth.anything.fire_async(uuid="1", url="/")
        await eventually(lambda: connection.fetchval("SELECT count(*) = 1 FROM page_views"))
    assert await outcomes(connection, "views") == ["done"]


async def test_an_idempotent_handler_leaves_one_row_for_an_event_that_comes_twice(
    bus: pgbus.Bus, database: str, connect: Connect
) -> None:
    connection = await connect(database)
    await connection.execute("CREATE TABLE page_views (uuid text PRIMARY KEY, url text)")

    def handle_page_view(event: EventMessage, uuid: str, url: str) -> None:
        with psycopg.connect(database) as own:
            own.execute(
                "INSERT INTO page_views VALUES (%s, %s) ON CONFLICT (uuid) DO UPDATE SET url = %s", (uuid, url, url)
            )

    bus.auth.anything.listen(handle_page_view, listener_name="views")
    async with working(bus):
        for _ in range(2):
            await bus.auth.anything.fire_async(uuid="1", url="/")
        await eventually(lambda: _done(connection, "views", 2))
    assert await connection.fetchval("SELECT array_agg(uuid || url) FROM page_views") == ["1/"]


async def _done(connection: asyncpg.Connection, listener_name: str, count: int) -> bool:
    return await outcomes(connection, listener_name) == ["done"] * count
