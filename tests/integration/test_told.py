"""What people are told of a fault is that fault, and not what it looked like to a driver."""

from __future__ import annotations

import asyncpg
import pytest

import pgbus
from tests.conftest import Connect
from tests.support.workers import QUICK_RETRY, open_bus, running, until_idle


async def test_a_statement_timeout_at_publish_is_not_reported_as_a_lost_connection(
    database: str, connect: Connect
) -> None:
    locked = await connect(database)
    separator = "&" if "?" in database else "?"
    async with open_bus(f"{database}{separator}statement_timeout=200ms") as bus, locked.transaction():
        await locked.execute("LOCK TABLE pgbus.outbox IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(asyncpg.QueryCanceledError, match="statement timeout"):
            await bus.publish(1, topic="a.b")
        with pytest.raises(asyncpg.QueryCanceledError, match="statement timeout"):
            await bus.publish_many([1, 2], topic="a.b")


async def test_a_connection_that_the_server_has_cut_is_told_as_closed(
    bus: pgbus.Bus, database: str, connect: Connect
) -> None:
    connection = await connect(database)
    await connection.execute("BEGIN")
    killer = await connect(database)
    await killer.execute("SELECT pg_terminate_backend($1, 5000)", connection.get_server_pid())
    with pytest.raises(pgbus.ConnectionUnusableError, match="the connection is closed") as told:
        await bus.publish(1, topic="a.b", using=connection)
    assert "terminate()" not in str(told.value)


async def test_only_the_first_failure_of_a_handler_is_logged_with_its_traceback(
    bus: pgbus.Bus, database: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    @bus.listener("a.b", name="mail", retry=QUICK_RETRY)
    async def handle(event: int, context: pgbus.Context) -> None:
        if context.attempt < 3:
            raise ValueError(f"attempt {context.attempt}")

    async with running(bus):
        await bus.publish(1, topic="a.b")
        await until_idle(await connect(database))
    failures = [record for record in caplog.records if "failed on event" in record.getMessage()]
    assert [bool(record.exc_info) for record in failures] == [True, False]
    assert 'raise ValueError(f"attempt' in caplog.text
