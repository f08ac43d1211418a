"""Outcomes that the database does not take as they are: what can be stored is, and no handler runs again uncounted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from pgbus import migrate
from pgbus.admin import Admin
from pgbus.telemetry import Settled
from tests.conftest import Connect
from tests.support import DatabaseServer, eventually
from tests.support.programs import run_program
from tests.support.workers import QUICK_RETRY, Inbox, Watch, open_bus, running, until_idle

REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not today'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON pgbus.{table} FOR EACH ROW EXECUTE FUNCTION refuse();
"""
# Not by dropping the trigger: that locks a table and its partitions one by one, a deadlock with what settles meanwhile.
TAKE = "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$"


@pytest.fixture(params=["LATIN1", "SQL_ASCII"])
async def encoded(request: pytest.FixtureRequest, server: DatabaseServer, connect: Connect) -> AsyncIterator[str]:
    """DSN of an upgraded database that is not in UTF8."""
    name = f"pgbus_test_{request.param.lower()}"
    connection = await connect(server.dsn)
    await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await connection.execute(
        f"CREATE DATABASE {name} ENCODING '{request.param}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    migrate.upgrade(server.dsn_of(name))
    yield server.dsn_of(name)
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("ordered", [False, True], ids=["plain", "ordered"])
async def test_an_error_that_the_encoding_cannot_hold_counts_like_any_other(
    encoded: str, connect: Connect, ordered: bool
) -> None:
    connection = await connect(encoded)
    async with open_bus(encoded) as bus:
        runs: list[dict[str, str]] = []

        @bus.listener("orders.placed", name="mail", retry=QUICK_RETRY, ordered=ordered)
        async def handle(event: dict[str, str]) -> None:
            runs.append(event)
            raise ValueError("缺货 é " + "x" * 10_000)

        async with running(bus):
            await bus.publish({"name": "é"}, topic="orders.placed")
            await eventually(lambda: connection.fetchval("SELECT error FROM pgbus.dead_letters"))
            await until_idle(connection)
    assert len(runs) == 3
    assert runs[0] == {"name": "é"}
    told = await connection.fetch("SELECT attempt, outcome, error FROM pgbus.event_history ORDER BY attempt")
    assert [(row["attempt"], row["outcome"]) for row in told] == [(1, "retry"), (2, "retry"), (3, "dead")]
    kept = "缺货 é" if "sql_ascii" in encoded else r"\u7f3a\u8d27 \xe9"
    assert all(row["error"].startswith(f"ValueError: {kept} xxx") for row in told)


async def test_a_transactional_handlers_error_counts_too(encoded: str, connect: Connect) -> None:
    connection = await connect(encoded)
    async with open_bus(encoded) as bus:

        @bus.listener("orders.placed", name="mail", retry=QUICK_RETRY, transactional=True)
        async def handle(event: dict[str, str], connection: asyncpg.Connection) -> None:
            raise ValueError("缺货")

        async with running(bus):
            await bus.publish({}, topic="orders.placed")
            await eventually(lambda: connection.fetchval("SELECT error FROM pgbus.dead_letters"))
    assert await connection.fetchval("SELECT attempts FROM pgbus.dead_letters") == 3


async def test_an_error_of_a_task_that_the_encoding_cannot_hold_is_stored(encoded: str, connect: Connect) -> None:
    connection = await connect(encoded)
    async with open_bus(encoded) as bus:

        @bus.client.every(hours=1, name="tidy", also_run_immediately=True)
        async def tidy() -> None:
            raise ValueError("缺货")

        async with running(bus):
            await eventually(lambda: connection.fetchval("SELECT outcome FROM pgbus.schedule_runs"))
    [run] = await connection.fetch("SELECT attempt, outcome, error FROM pgbus.schedule_runs")
    assert (run["attempt"], run["outcome"]) == (1, "failed")


async def test_upgrade_and_status_warn_of_a_database_that_is_not_in_utf8(
    encoded: str, connect: Connect, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "pgbus"):
        migrate.upgrade(encoded)
    assert "the database's encoding is" in caplog.text
    status = await Admin(await connect(encoded)).status()
    assert status.encoding in ("LATIN1", "SQL_ASCII")
    for command in (("db", "upgrade"), ("status",)):
        done = await asyncio.to_thread(run_program, *command, cwd=tmp_path, environ={"PGBUS_DSN": encoded})
        assert f"the database's encoding is {status.encoding}" in done.stdout + done.stderr
        assert done.returncode == 0


async def test_a_database_in_utf8_is_not_warned_of(database: str, caplog: pytest.LogCaptureFixture) -> None:
    migrate.upgrade(database)
    assert "encoding" not in caplog.text


@pytest.mark.parametrize("table", ["history", "deliveries"])
async def test_an_outcome_that_the_database_refuses_stays_in_flight_until_it_is_taken(
    database: str, connect: Connect, table: str
) -> None:
    """Neither handled again meanwhile, nor in the way of others."""
    connection = await connect(database)
    async with open_bus(database, poll_interval=0.05) as bus:
        runs: list[int] = []
        watch = Watch(bus)

        @bus.listener("orders.placed", name="mail", retry=QUICK_RETRY)
        async def handle(event: dict[str, int]) -> None:
            runs.append(event["n"])
            if event["n"] == 1 and len(runs) == 1:
                raise ValueError("no")

        async with running(bus):
            condition = "WHEN (NEW.outcome = 'retry')" if table == "history" else "WHEN (NEW.attempt = 2)"
            refuse = REFUSE.format(table=table).replace("FOR EACH ROW", f"FOR EACH ROW {condition}")
            await connection.execute(refuse)
            await bus.publish({"n": 1}, topic="orders.placed")
            await eventually(lambda: runs)
            for number in range(2, 12):
                await bus.publish({"n": number}, topic="orders.placed")
                await watch.until(lambda _, n=number: sum(seen.done for seen in watch.of(Settled)) >= n - 1)  # type: ignore[misc]
            assert runs == list(range(1, 12))
            assert await connection.fetchval("SELECT in_flight FROM pgbus.listener_lag") == 1
            await connection.execute(TAKE)
            await until_idle(connection)
    assert runs == [*range(1, 12), 1]


async def test_a_listener_stops_to_claim_when_its_outcomes_are_refused(
    database: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgbus.listeners.claimer.REFUSED_LIMIT", 3)
    connection = await connect(database)
    async with open_bus(database) as bus:
        inbox: Inbox[int] = Inbox()

        @bus.listener("orders.placed", name="mail", concurrency=1, batch_size=1)
        async def handle(event: dict[str, int]) -> None:
            inbox.put(event["n"])

        async with running(bus):
            await connection.execute(REFUSE.format(table="history"))
            await bus.publish_many([{"n": number} for number in range(12)], topic="orders.placed")
            await inbox.take(3)
            await eventually(lambda: connection.fetchval("SELECT in_flight >= 3 FROM pgbus.listener_lag"))
            await connection.execute(TAKE)
            await until_idle(connection)
    assert sorted(inbox.items) == list(range(12))


async def test_a_runs_outcome_that_the_database_refuses_is_kept_until_it_is_taken(
    database: str, connect: Connect
) -> None:
    connection = await connect(database)
    runs: list[int] = []
    async with open_bus(database, poll_interval=0.05) as bus:

        @bus.client.every(hours=1, name="tidy", also_run_immediately=True)
        async def tidy() -> None:
            runs.append(1)

        await connection.execute(REFUSE.format(table="schedule_runs").replace("INSERT", "UPDATE"))
        async with running(bus):
            await eventually(lambda: runs)
            await connection.execute(TAKE)
            await eventually(lambda: connection.fetchval("SELECT outcome FROM pgbus.schedule_runs"))
    assert runs == [1]
    assert await connection.fetchval("SELECT array_agg(outcome) FROM pgbus.schedule_runs") == ["done"]
