"""Behind a real PgBouncer in transaction mode: publishing, handlers' transactions and calls."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

import pgbus
from pgbus.bus import make_worker
from pgbus.config import Config
from pgbus.doctor import examine
from tests.conftest import Connect
from tests.support import eventually
from tests.support.faultproxy import FaultProxy
from tests.support.ports import free_port
from tests.support.workers import Inbox, open_bus, running, until_idle

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="needs pgbouncer on PATH")


@pytest.fixture
async def pooled(database: str, tmp_path: Path) -> AsyncIterator[str]:
    """DSN of the database through a pooler with two server connections, so that clients must share them."""
    # Root's pooler runs as nobody, whom the server's socket would not let in: it comes by TCP.
    async with FaultProxy(database) as bridge, pgbouncer(bridge.dsn, tmp_path / "pgbouncer.ini") as dsn:
        yield dsn


@contextlib.asynccontextmanager
async def pgbouncer(target: str, ini: Path, *, mode: str = "transaction") -> AsyncIterator[str]:
    assert PGBOUNCER is not None
    to = urlsplit(target)
    name = to.path.lstrip("/")
    port = free_port()
    ini.write_text(
        f"[databases]\n{name} = host={to.hostname} port={to.port} user={to.username} password={to.password or 'none'}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        f"pool_mode = {mode}\ndefault_pool_size = {2 if mode == 'transaction' else 20}\n"
    )
    as_nobody = ["-u", "nobody"] if os.geteuid() == 0 else []  # it refuses to run as root
    with ini.open("rb") as settings:
        process = await asyncio.create_subprocess_exec(
            PGBOUNCER, *as_nobody, "/dev/stdin", stdin=settings, stdout=DEVNULL, stderr=DEVNULL
        )
    dsn = f"postgresql://{to.username}@127.0.0.1:{port}/{name}"

    async def answers() -> bool:
        assert process.returncode is None, "pgbouncer ended"
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            connection = await asyncpg.connect(dsn, statement_cache_size=0, timeout=5)
            await connection.close()
            return True
        return False

    try:
        await eventually(answers)
        yield dsn
    finally:
        process.kill()
        await process.wait()


async def test_events_pass_a_pooler_into_transactions_of_every_kind(
    pooled: str, database: str, connect: Connect
) -> None:
    connection = await connect(database)
    await connection.execute("CREATE TABLE effects (kind text, n integer)")
    async with open_bus(pooled, direct_dsn=database) as bus:
        insert = "INSERT INTO effects VALUES ({}, {})"

        @bus.listener("orders.placed", name="asyncpg", transactional=True)
        async def by_asyncpg(event: dict[str, int], connection: asyncpg.Connection) -> None:
            await connection.execute(insert.format("'asyncpg'", "$1"), event["n"])

        @bus.listener("orders.placed", name="async session", transactional=True)
        async def by_async_session(event: dict[str, int], session: AsyncSession) -> None:
            await session.execute(text(insert.format("'async session'", ":n")), {"n": event["n"]})

        @bus.listener("orders.placed", name="session", transactional=True)
        def by_session(event: dict[str, int], session: Session) -> None:
            session.execute(text(insert.format("'session'", ":n")), {"n": event["n"]})

        async with running(bus):
            await bus.publish_many([{"n": number} for number in range(200)], topic="orders.placed")
            for number in range(200, 220):
                await bus.publish({"n": number}, topic="orders.placed")
            await until_idle(connection, timeout=60)
    rows = await connection.fetch("SELECT kind, count(*), count(DISTINCT n) FROM effects GROUP BY kind ORDER BY kind")
    assert [tuple(row) for row in rows] == [(kind, 220, 220) for kind in ("async session", "asyncpg", "session")]
    assert await connection.fetchval("SELECT count(*) FROM pgbus.attempts WHERE outcome <> 'done'") == 0


async def test_calls_and_wake_ups_pass_by_a_pooler(pooled: str, database: str) -> None:
    async with open_bus(pooled, direct_dsn=database) as bus, open_bus(pooled, direct_dsn=database) as caller:
        inbox: Inbox[int] = Inbox()

        @bus.procedure("math.double")
        async def double(n: int) -> int:
            return 2 * n

        @bus.listener("orders.placed", name="mail")
        async def handle(event: dict[str, int]) -> None:
            inbox.put(event["n"])

        async with running(bus):  # which never polls
            assert await asyncio.gather(*(caller.call("math.double", {"n": n}) for n in range(20))) == [
                2 * n for n in range(20)
            ]
            await caller.publish({"n": 1}, topic="orders.placed")
            assert await inbox.take(1) == [1]


async def test_a_pooler_without_the_way_past_it_is_refused_in_one_line(pooled: str) -> None:
    async with open_bus(pooled) as bus:

        @bus.listener("orders.placed", name="mail")
        async def handle(event: int) -> None:
            pass

        for work in (make_worker(bus).run(), bus.call("math.double", {"n": 1})):
            with pytest.raises(pgbus.ConfigurationError, match="give the database's own address as direct_dsn"):
                await work


async def test_a_pooler_in_session_mode_needs_no_way_past_it(database: str, tmp_path: Path) -> None:
    async with (
        FaultProxy(database) as bridge,
        pgbouncer(bridge.dsn, tmp_path / "pgbouncer.ini", mode="session") as dsn,
        open_bus(dsn) as bus,
    ):
        inbox: Inbox[int] = Inbox()

        @bus.listener("orders.placed", name="mail")
        async def handle(event: int) -> None:
            inbox.put(event)

        async with running(bus):  # which never polls
            await bus.publish(1, topic="orders.placed")
            assert await inbox.take(1) == [1]


async def test_the_doctor_sees_the_pooler_and_leaves_none_of_its_settings_there(pooled: str, connect: Connect) -> None:
    found = {one.check: one for one in (await examine(Config(dsn=pooled))).findings}
    assert found["pooler"].verdict == "fault"
    assert "direct_dsn" in found["pooler"].evidence
    for _ in range(3):
        after = await asyncpg.connect(pooled, statement_cache_size=0)
        assert await after.fetchval("SHOW statement_timeout") == "0"
        await after.close()
