"""A bus that moves, with events of every kind in it: dumped and restored, copied logically, and upgraded in place."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

import pgbus
from pgbus import migrate
from pgbus.embedded import EmbeddedPostgres, find_binaries
from pgbus.embedded.privileges import find_privileges
from pgbus.errors import EmbeddedPostgresError
from tests.migrations.conftest import BINDIRS
from tests.support import ROOT, DatabaseServer, eventually
from tests.support.workers import Inbox, open_bus, running

RETRIED, GIVEN_UP = range(30, 35), (5,)
SETTLED = """
    SELECT listener_name, (payload ->> 'n')::integer AS n, outcome FROM pgbus.event_history
    WHERE topic = 'moves.made' AND outcome = 'done'
"""
# The copy of a logical replication has rows and no sequences: they are set forward before the first worker starts.
SET_SEQUENCES = """
    SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, $1::bigint)
    FROM pg_sequences WHERE schemaname = 'pgbus' AND sequencename = $2
"""


Handled = tuple[str, int]
"""The listener, and the number of the event."""


@dataclass
class Before:
    """What a bus has when it moves: published, and handled by then; and the highest position."""

    published: set[int]
    handled: set[Handled]
    position: int


@asynccontextmanager
async def bus_at(dsn: str, handled: Inbox[Handled], *, retries: bool) -> AsyncIterator[pgbus.Bus]:
    async with open_bus(dsn) as bus:

        @bus.listener("moves.made", name="mail", start="beginning", ordered=True)
        @bus.listener("moves.made", name="count", start="beginning")
        async def handle(event: dict[str, int], context: pgbus.Context) -> None:
            if event["n"] in GIVEN_UP:
                raise pgbus.Dead("not this one")
            if retries and event["n"] in RETRIED:
                raise pgbus.Retry(after=2.0)
            handled.put((context.listener_name, event["n"]))

        yield bus


async def fill(dsn: str) -> Before:
    """Handled events, one in the dead letters, some that wait for a retry, a backlog and a scheduled one."""
    handled: Inbox[Handled] = Inbox()
    connection = await asyncpg.connect(dsn)
    async with bus_at(dsn, handled, retries=True) as bus:
        async with running(bus):
            await bus.publish_many([{"n": number} for number in range(40)], topic="moves.made")
            await eventually(lambda: connection.fetchval("SELECT count(*) >= 80 FROM pgbus.attempts"))
        await bus.publish_many([{"n": number} for number in range(40, 60)], topic="moves.made")
        await bus.publish({"n": 60}, topic="moves.made", delay=3.0)
    position = await connection.fetchval("SELECT max(position) FROM pgbus.event_history")
    await connection.close()
    return Before(set(range(61)), set(handled.items), position)


async def check(dsn: str, before: Before) -> None:
    """It starts paused, and then each event is done once at each listener or dead, and new events come after all."""
    handled: Inbox[Handled] = Inbox()
    async with bus_at(dsn, handled, retries=False) as bus, running(bus):
        await bus.publish({"n": 61}, topic="moves.made")
        connection = await asyncpg.connect(dsn)
        paused = await connection.fetch("SELECT state, in_flight FROM pgbus.listener_lag")
        assert [tuple(row) for row in paused] == [("paused", 0)] * 2
        await connection.execute("CALL pgbus.operate('adopt')")
        nothing_owed = """
            SELECT (SELECT count(*) FROM pgbus.scheduled) = 0 AND sum(lag_events) = 0
                   AND (SELECT count(DISTINCT payload ->> 'n') FROM pgbus.event_history) = 62
            FROM pgbus.listener_lag
        """
        await eventually(lambda: connection.fetchval(nothing_owed))
        rows = [(row["listener_name"], row["n"]) for row in await connection.fetch(SETTLED)]
        new = await connection.fetchval("SELECT min(position) FROM pgbus.event_history WHERE payload ->> 'n' = '61'")
        dead = [row["n"] for row in await connection.fetch("SELECT payload ->> 'n' AS n FROM pgbus.dead")]
        await connection.close()
    expected = (before.published | {61}) - set(GIVEN_UP)
    assert sorted(rows) == sorted((name, number) for name in ("count", "mail") for number in expected)
    assert dead == ["5", "5"]
    assert before.handled.isdisjoint(handled.items), "an event that was done before the move came again"
    assert new > before.position


async def test_a_dump_that_is_restored_goes_on_where_it_was(
    database: str, programs: Path, server: DatabaseServer, tmp_path: Path
) -> None:
    before = await fill(database)
    with server.temporary_database() as restored:
        run(programs / "pg_dump", "--format=custom", f"--file={tmp_path / 'dump'}", database)
        run(programs / "pg_restore", f"--dbname={restored}", tmp_path / "dump")
        await check(restored, before)


async def test_a_logical_copy_goes_on_where_the_original_was(
    programs: Path, own_server: EmbeddedPostgres, tmp_path: Path
) -> None:
    """As blue and green do it: the schema, a subscription until it has caught up, then the sequences."""
    blue = await asyncpg.connect(own_server.create_database("blue"))
    await blue.execute("ALTER SYSTEM SET wal_level = logical")
    await blue.close()
    await asyncio.to_thread(own_server.restart)
    await asyncio.to_thread(migrate.upgrade, own_server.dsn("blue"))
    own_server.create_database("green")
    run(programs / "pg_dump", "--schema-only", f"--file={tmp_path / 'schema'}", own_server.dsn("blue"))
    run(programs / "psql", "--quiet", f"--file={tmp_path / 'schema'}", own_server.dsn("green"))
    blue = await asyncpg.connect(own_server.dsn("blue"))
    green = await asyncpg.connect(own_server.dsn("green"))
    await blue.execute("CREATE PUBLICATION moving FOR ALL TABLES")
    await blue.execute("SELECT pg_create_logical_replication_slot('moving', 'pgoutput')")
    address = own_server.dsn("blue").replace("'", "''")
    await green.execute(
        f"CREATE SUBSCRIPTION moving CONNECTION '{address}' PUBLICATION moving WITH (create_slot = false)"
    )
    before = await fill(own_server.dsn("blue"))
    await _caught_up(blue, green)
    await green.execute("ALTER SUBSCRIPTION moving DISABLE; ALTER SUBSCRIPTION moving SET (slot_name = NONE)")
    await green.execute("DROP SUBSCRIPTION moving")
    for row in await blue.fetch("SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'pgbus'"):
        if row["last_value"] is not None:
            await green.execute(SET_SEQUENCES, row["last_value"], row["sequencename"])
    await blue.close()
    await green.close()
    await check(own_server.dsn("green"), before)


async def _caught_up(blue: asyncpg.Connection, green: asyncpg.Connection) -> None:
    end = await blue.fetchval("SELECT pg_current_wal_lsn()")
    copied = "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel"
    confirmed = "SELECT confirmed_flush_lsn >= $1::pg_lsn FROM pg_replication_slots WHERE slot_name = 'moving'"
    await eventually(lambda: green.fetchval(copied), 60)
    await eventually(lambda: blue.fetchval(confirmed, end), 60)


def old_binaries() -> Path:
    """PostgreSQL 14: what `make test-postgres V=14` has unpacked, or an environment variable names."""
    given = Path(os.environ.get("PGBUS_PG_BINDIR", "none"))
    for directory in (ROOT / ".venv" / "postgresql-14" / "bin", given, *BINDIRS):
        if (directory / "pg_checksums").exists() and "14." in version_of(directory):
            return directory
    pytest.skip("needs PostgreSQL 14: run `make test-postgres V=14` once, or name its directory in PGBUS_PG_BINDIRS")


def version_of(directory: Path) -> str:
    return subprocess.run([directory / "postgres", "--version"], check=True, capture_output=True, text=True).stdout


async def test_pg_upgrade_takes_the_bus_along(tmp_path: Path) -> None:
    old = old_binaries()
    try:
        new = find_binaries(environ={}).directory
    except EmbeddedPostgresError as error:
        pytest.skip(str(error))
    if not (new / "pg_upgrade").exists() or version_of(new) == version_of(old):
        pytest.skip("needs a newer PostgreSQL with pg_upgrade")
    with EmbeddedPostgres(tmp_path / "old", bindir=old) as server:
        await asyncio.to_thread(migrate.upgrade, server.dsn())
        before = await fill(server.dsn())
    with EmbeddedPostgres(tmp_path / "new", bindir=new):
        pass
    upgrade(old, new, tmp_path)
    with EmbeddedPostgres(tmp_path / "new", bindir=new) as server:
        await check(server.dsn(), before)


def upgrade(old: Path, new: Path, directory: Path) -> None:
    """Run `pg_upgrade` as the servers run, which is not as root."""
    privileges = find_privileges()
    directory.chmod(0o755)
    work = directory / "work"
    work.mkdir()
    privileges.give(work)
    as_user = (*privileges.prefix,)
    # PostgreSQL 18 has checksums by default, and takes over only clusters that agree.
    run(*as_user, old / "pg_checksums", "--enable", "--pgdata", directory / "old", cwd=work)
    run(
        *as_user, new / "pg_upgrade", "--username=postgres", f"--old-bindir={old}", f"--new-bindir={new}",
        f"--old-datadir={directory / 'old'}", f"--new-datadir={directory / 'new'}", f"--socketdir={work}", cwd=work,
    )  # fmt: skip


def run(*command: str | Path, cwd: Path | None = None) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd, env=environ)
    assert ended.returncode == 0, ended.stderr + ended.stdout
