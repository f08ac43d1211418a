"""An upgrade without a pause: old and new code run side by side, on the schema before and after it.

The next version is this one with a revision more, which adds a column: a copy of the package, for processes of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import sys
from pathlib import Path

import pytest

from pgbus import migrate
from pgbus.database.migrate.versions import scripts_directory
from tests.chaos.stage import Stage, WorkerProcess
from tests.support import ROOT, eventually

SCHEMA_ERROR = 3
VERSION = '''"""What the next version adds."""

from pgbus.database.migrate.scripts import execute_script

revision = "{revision}"
down_revision = "{before}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute_script("{revision}_next_upgrade.sql")


def downgrade() -> None:
    execute_script("{revision}_next_downgrade.sql")
'''
EXPAND = """
ALTER TABLE pgbus.outbox ADD COLUMN note text;
ALTER TABLE pgbus.deliveries ADD COLUMN note text;
ALTER TABLE pgbus.listeners ADD COLUMN note text;
"""
END_SESSIONS = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE application_name = 'pgbus' AND datname = current_database()
"""


class Next:
    """The next version of the package, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.before = migrate.head()
        self.revision = f"{int(self.before) + 1:04d}"
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "pgbus", directory / "pgbus", ignore=ignore)
        shutil.copytree(scripts_directory(), directory / "migrations", ignore=ignore)
        shutil.copytree(ROOT / "tests", directory / "tests", ignore=ignore)
        sql = directory / "migrations" / "sql"
        (sql / f"{self.revision}_next_upgrade.sql").write_text(EXPAND)
        (sql / f"{self.revision}_next_downgrade.sql").write_text(
            EXPAND.replace("ADD COLUMN note text", "DROP COLUMN note")
        )
        version = VERSION.format(revision=self.revision, before=self.before)
        (directory / "migrations" / "versions" / f"{self.revision}_next.py").write_text(version)

    async def upgrade(self, dsn: str) -> None:
        """Run its `pgbus db upgrade`."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pgbus.cli", "db", "upgrade", cwd=self.directory,
            env={"PYTHONPATH": str(self.directory), "PGBUS_DSN": dsn, "PATH": ""},
        )  # fmt: skip
        assert await process.wait() == 0


@pytest.fixture
def next_version(tmp_path: Path) -> Next:
    return Next(tmp_path / "next")


class Load:
    """Publishes events, a few at a time, until stopped."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._numbers = itertools.count()
        self._stopping = asyncio.Event()
        self._task = asyncio.create_task(self._run())
        self.published: set[int] = set()

    async def _run(self) -> None:
        while not self._stopping.is_set():
            number = next(self._numbers)
            try:
                await self._stage.bus.publish({"n": number}, topic="chaos.recorded")
            except Exception:  # its session was ended: the publisher does not know, and goes on with another event
                continue
            self.published.add(number)
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        self._stopping.set()
        await self._task


async def go_on(stage: Stage, *workers: WorkerProcess) -> None:
    """End all sessions; each of these workers opens another, and handles events."""
    for worker in workers:
        await stage.registered(worker)
    await stage.value(END_SESSIONS)
    for worker in workers:
        await handles(stage, worker)


async def handles(stage: Stage, worker: WorkerProcess) -> None:
    """Wait for an event that this worker handles from now on."""
    since = await stage.value("SELECT clock_timestamp()")
    seen = "SELECT EXISTS (SELECT FROM handled WHERE pid = $1 AND at > $2)"
    await eventually(lambda: stage.value(seen, worker.pid, since), 60)
    assert worker.lives


async def finish(stage: Stage, load: Load) -> None:
    await load.stop()
    await stage.settled()
    assert load.published <= set(await stage.numbers("handled"))
    assert await stage.dead_letters() == []


async def test_the_schema_first_old_processes_go_on_and_new_ones_of_both_versions_start(
    stage: Stage, next_version: Next
) -> None:
    old = await stage.start("record", service_name="chaos")
    await stage.registered(old)
    load = Load(stage)
    await next_version.upgrade(stage.dsn)
    assert migrate.current(stage.dsn) == next_version.revision
    await asyncio.to_thread(migrate.upgrade, stage.dsn)  # as an instance of the old version does when it starts
    again, new = await asyncio.gather(
        stage.start("record", service_name="chaos"),
        stage.start("record", root=next_version.directory, service_name="chaos"),
    )
    await go_on(stage, old, again, new)
    # Later, when no old process is left to wait for, a revision needs the new code: an old one ends, and says why.
    function = "CREATE OR REPLACE FUNCTION pgbus.oldest_code() RETURNS text LANGUAGE sql AS $$ SELECT '{}' $$"
    await stage.connection.execute(function.format(next_version.revision))
    await stage.value(END_SESSIONS)
    assert await old.ended(60) == await again.ended(60) == SCHEMA_ERROR
    assert f"is at revision {next_version.revision}, newer than this code" in old.log
    await go_on(stage, new)
    await finish(stage, load)


async def test_the_code_first_new_processes_run_on_the_schema_before_theirs(stage: Stage, next_version: Next) -> None:
    old, new = await asyncio.gather(
        stage.start("record", service_name="chaos"),
        stage.start("record", root=next_version.directory, service_name="chaos"),
    )
    load = Load(stage)
    await go_on(stage, old, new)
    await next_version.upgrade(stage.dsn)
    await go_on(stage, old, new)
    await finish(stage, load)
