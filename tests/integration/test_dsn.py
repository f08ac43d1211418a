"""One DSN, with what several programs write into it, and every driver on a real server."""

from __future__ import annotations

import asyncpg
import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession

import pgbus
from pgbus import migrate
from pgbus.config import Config, for_asyncpg, for_libpq
from pgbus.database.adapters.transactions import Transactions
from pgbus.errors import DatabaseUnreachableError
from pgbus.handlers.signatures import Wanted

PARAMETERS = (
    "channel_binding=prefer&keepalives=1&connect_timeout=5&sslmode=prefer&statement_timeout=9s&search_path=a,%20b"
    "&target_session_attrs=any&options=-c%20lock_timeout%3D7s\n"
)


async def test_every_driver_takes_the_dsn_with_its_settings(database: str) -> None:
    config = Config(dsn=f"{database.replace('postgresql://', 'postgresql+asyncpg://')}&{PARAMETERS}")
    assert config.dsn is not None
    assert migrate.current(config.dsn) == migrate.head()
    wanted = {"statement_timeout": "9s", "search_path": "a, b", "lock_timeout": "7s"}
    connection = await asyncpg.connect(for_asyncpg(config.dsn))
    assert {name: await connection.fetchval(f"SHOW {name}") for name in wanted} == wanted
    pool = await asyncpg.create_pool(for_asyncpg(config.dsn), min_size=0)
    transactions = Transactions(config.dsn, pool=pool, size=1, behind_pooler=False)
    async with transactions.begin(Wanted("sqlalchemy_async", AsyncSession)) as (session, _):
        assert await session.scalar(sqlalchemy.text("SHOW statement_timeout")) == "9s"
    await transactions.close()
    with psycopg.connect(for_libpq(config.dsn)) as blocking:
        row = blocking.execute("SELECT " + ", ".join(f"current_setting('{name}')" for name in wanted)).fetchone()
        assert row == tuple(wanted.values())
    async with pgbus.create(config.dsn) as bus:
        await bus.publish({}, topic="a.b")
    assert await connection.fetchval("SELECT count(*) FROM pgbus.outbox") == 1
    await connection.close()
    await pool.close()


def test_without_a_dsn_an_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "/nowhere")
    with pytest.raises(DatabaseUnreachableError, match=r"PGBUS_DSN is not set; `pgbus dev` starts a database"):
        migrate.current(None)
