"""A copy of a bus's database: its first worker pauses everything, and someone says how it goes on."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from pgbus.admin import Admin
from pgbus.config import Config
from pgbus.doctor import Finding, examine, safety
from pgbus.embedded import EmbeddedPostgres
from tests.conftest import Connect
from tests.migrations.test_moves import run
from tests.support import DatabaseServer, eventually
from tests.support.rows import Rows
from tests.support.workers import Inbox, open_bus, running

STATES = """
    SELECT listener_name, state FROM pgbus.listeners
    UNION ALL SELECT schedule_name, state FROM pgbus.schedules ORDER BY 1
"""


async def states(connection: asyncpg.Connection) -> dict[str, str]:
    return {row["listener_name"]: row["state"] for row in await connection.fetch(STATES)}


async def doctor_says(dsn: str) -> Finding:
    found = await examine(Config(dsn=dsn), groups=[safety.GROUP])
    return next(one for one in found.findings if one.check == "copy")


@pytest.fixture
async def copy(database: str, server: DatabaseServer) -> AsyncIterator[str]:
    """A copy of a database in which a worker has run: two listeners and a schedule, and one of each is paused."""
    connection = await asyncpg.connect(database)
    rows = Rows(connection)
    await rows.listener("audit", "orders.*")
    await rows.listener("mail", "orders.*")
    await rows.listener("ship", "orders.*", state="paused")
    await connection.execute(
        "INSERT INTO pgbus.schedules (schedule_name, rule, next_run_at, state) VALUES"
        " ('nightly', 'every day', now(), 'active'), ('weekly', 'every week', now(), 'paused')"
    )
    assert (await doctor_says(database)).evidence == "no worker ever ran here"
    assert await connection.fetchval("SELECT pgbus.pause_copy()") is None
    assert (await doctor_says(database)).verdict == "ok"
    await connection.close()
    with server.temporary_database(template=re.sub(r"\?.*", "", database).rpartition("/")[2]) as dsn:
        yield dsn


async def test_a_copy_is_paused_once_with_an_operation_that_says_why(copy: str, connect: Connect) -> None:
    assert (await doctor_says(copy)).verdict == "warning"
    workers = [await connect(copy) for _ in range(3)]
    numbers = await asyncio.gather(*(one.fetchval("SELECT pgbus.pause_copy()") for one in workers))
    assert sorted(numbers, key=str) == [1, None, None]
    assert set((await states(workers[0])).values()) == {"paused"}
    async with Admin.connect(Config(dsn=copy)) as admin:
        operation = await admin.operations.show(1)
    assert (operation.verb, operation.state, operation.touched) == ("pause_copy", "done", 3)
    assert operation.result == {"listeners": ["audit", "mail"], "schedules": ["nightly"]}
    assert "this database is a copy" in (operation.reason or "")
    found = await doctor_says(copy)
    assert (found.verdict, found.remedy) == ("warning", "pgbus db adopt")
    assert "audit, mail, nightly" in found.evidence


async def test_what_one_resumes_in_a_copy_stays_so_and_is_not_paused_by_the_next_worker(
    copy: str, connect: Connect
) -> None:
    connection = await connect(copy)
    await connection.fetchval("SELECT pgbus.pause_copy()")
    async with Admin.connect(Config(dsn=copy)) as admin:
        await admin.listeners.resume("audit")
    assert await connection.fetchval("SELECT pgbus.pause_copy()") is None
    assert (await states(connection))["audit"] == "active"
    assert "mail, nightly" in (await doctor_says(copy)).evidence


async def test_to_adopt_a_copy_resumes_what_was_paused_for_it_and_nothing_else(copy: str, connect: Connect) -> None:
    connection = await connect(copy)
    await connection.fetchval("SELECT pgbus.pause_copy()")
    async with Admin.connect(Config(dsn=copy)) as admin:
        done = await admin.operations.run("adopt", {}, reason="moved", person="ann")
    assert done.result == {"listeners": ["audit", "mail"], "schedules": ["nightly"]}
    expected = {"audit": "active", "mail": "active", "nightly": "active", "ship": "paused", "weekly": "paused"}
    assert await states(connection) == expected
    assert (await doctor_says(copy)).verdict == "ok"


async def test_a_copy_that_is_adopted_before_its_first_worker_is_not_paused(copy: str, connect: Connect) -> None:
    connection = await connect(copy)
    await connection.execute("CALL pgbus.operate('adopt')")
    assert await connection.fetchval("SELECT pgbus.pause_copy()") is None
    assert (await states(connection))["mail"] == "active"


async def test_where_the_servers_identifier_cannot_be_read_nothing_is_paused_and_the_check_is_skipped(
    copy: str, connect: Connect
) -> None:
    connection = await connect(copy)
    await connection.execute(
        """
        REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC;
        CREATE ROLE copy_owner;
        GRANT USAGE, CREATE ON SCHEMA pgbus TO copy_owner;
        ALTER FUNCTION pgbus.find_installation() OWNER TO copy_owner;
        """
    )
    try:
        assert await connection.fetchval("SELECT pgbus.pause_copy()") is None
        assert (await states(connection))["mail"] == "active"
        assert (await doctor_says(copy)).verdict == "skipped"
    finally:
        await connection.execute(
            "ALTER FUNCTION pgbus.find_installation() OWNER TO CURRENT_USER;"
            "DROP OWNED BY copy_owner; DROP ROLE copy_owner"
        )


async def test_an_ordinary_role_may_read_the_servers_identifier(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with connection.transaction():
        await connection.execute("CREATE ROLE copy_nobody; SET LOCAL ROLE copy_nobody")
        assert await connection.fetchval("SELECT system_identifier FROM pg_control_system()")
        await connection.execute("RESET ROLE; DROP ROLE copy_nobody")


async def test_a_dump_in_another_cluster_sends_nothing_until_someone_adopts_it(
    database: str, programs: Path, own_server: EmbeddedPostgres, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sent: Inbox[int] = Inbox()

    async with open_bus(database) as bus:

        @bus.listener("orders.*", name="mail", start="beginning")
        async def mail(event: dict[str, int]) -> None:
            sent.put(event["n"])

        async with running(bus):
            await bus.publish({"n": 1}, topic="orders.placed")
            await sent.take(1)
        await bus.publish({"n": 2}, topic="orders.placed")
    run(programs / "pg_dump", "--format=custom", f"--file={tmp_path / 'dump'}", database)
    copy = own_server.create_database("staging")
    run(programs / "pg_restore", f"--dbname={copy}", tmp_path / "dump")
    async with open_bus(copy) as bus:

        @bus.listener("orders.*", name="mail", start="beginning")
        async def mail_again(event: dict[str, int]) -> None:
            sent.put(event["n"])

        with caplog.at_level(logging.WARNING, "pgbus"):
            async with running(bus):
                connection = await asyncpg.connect(copy)
                logged = "SELECT count(*) = 2 FROM pgbus.events"
                await eventually(lambda: connection.fetchval(logged))
                assert sent.items == [1]
                assert any("`pgbus db adopt`" in record.getMessage() for record in caplog.records)
                await connection.execute("CALL pgbus.operate('adopt', '{}', 'the new server')")
                await sent.take(2)
                await connection.close()
    assert sent.items == [1, 2]
