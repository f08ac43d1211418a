"""What a chaos run plays on: a server, the ways to it, worker processes, and processes that publish and call.

    workers, load --direct--> address (a proxy) ------> server (in a small tmpfs, if we may mount one)
                 `--pooled--> PgBouncer ----> address

The address stays the same whatever the server behind it is. All but `sql`, which goes past the address, is used by
faults to break things.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from pgbus import migrate
from pgbus.embedded import EmbeddedPostgres
from tests.chaos.load import keys_of
from tests.chaos.rights import Tmpfs
from tests.chaos.stage import WorkerProcess
from tests.chaos.workload import TABLES
from tests.support import ROOT, eventually
from tests.support.faultproxy import FaultProxy
from tests.support.pooler import Pooler
from tests.support.ports import free_port

DATABASE = "chaos"
APP = "chaos_app"
CONNECTIONS = 150
DISK = "1200M"
SETTINGS: dict[str, str | int] = {
    "listen_addresses": "*",  # for hosts in networks of their own, which come later
    "max_connections": CONNECTIONS,
    "max_wal_size": "128MB",
    "wal_keep_size": "64MB",
    "shared_buffers": "64MB",
}
AWAY = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.TooManyConnectionsError,
)
"""What a connection to a server says that is away, starts, or is full."""


class World:
    """A context manager; `seed` decides what `random` gives, and with it what faults choose."""

    def __init__(self, directory: Path, *, seed: int, workers: int = 3, rate: float = 20.0) -> None:
        self.directory = directory
        self.random = random.Random(seed)
        self.team: list[WorkerProcess] = []
        """The workers that are meant to be alive."""
        self.spent: list[WorkerProcess] = []
        """The workers that faults have ended."""
        self.server: EmbeddedPostgres
        self.address: FaultProxy
        self.pooler: Pooler | None = None
        self.disk: Tmpfs | None = None
        self.release = 1
        """The version of the service that a deploy starts."""
        self._size = workers
        self._rate = rate
        self._started = 0
        self._load: list[Process] = []
        self._watcher: asyncpg.Connection | None = None
        self._asking = asyncio.Lock()
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _open(self) -> None:
        self.disk = self._stack.enter_context(Tmpfs(DISK)) if Tmpfs.lacks() is None else None
        place = self.disk.path if self.disk else Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        place.chmod(0o755)
        self.server = EmbeddedPostgres(place / "first", listen=True, port=free_port(), settings=SETTINGS)
        self._stack.push_async_callback(self._close_server)
        await asyncio.to_thread(self.server.start)
        await self._prepare()
        self.address = await self._stack.enter_async_context(FaultProxy(self.server.dsn(DATABASE)))
        if Pooler.lacks() is None:
            self.pooler = await self._stack.enter_async_context(Pooler(self.app_dsn, self.directory / "pgbouncer.ini"))
        self._stack.push_async_callback(self._end_processes)
        await asyncio.gather(*(self.start_worker() for _ in range(self._size)))
        await self.start_load()

    async def _prepare(self) -> None:
        rules = self.server.datadir / "pg_hba.conf"
        rules.write_text(f"{rules.read_text()}\nhost all all 10.0.0.0/8 scram-sha-256\n")
        self.server.create_database(DATABASE)
        await asyncio.to_thread(migrate.upgrade, self.server.dsn(DATABASE))
        password = urlsplit(self.server.dsn()).password
        groups = ", ".join(f"pgbus_{role}" for role in ("publisher", "caller", "worker", "reader"))
        await self.sql(f"CREATE ROLE {APP} LOGIN PASSWORD '{password}'")
        await asyncio.to_thread(migrate.grant_roles, self.server.dsn(DATABASE))
        await self.sql(f"GRANT {groups} TO {APP}")
        for statement in TABLES.strip().split(";\n"):
            await self.sql(statement)
        await self.sql("SELECT pg_reload_conf()")

    async def _close_server(self) -> None:
        if self._watcher:
            self._watcher.terminate()
        await asyncio.to_thread(self.server.stop, "immediate")
        await asyncio.to_thread(self.server.close)

    async def _end_processes(self) -> None:
        for worker in self.team + self.spent:
            await worker.kill()
        for load in self._load:
            if load.returncode is None:
                load.kill()
                await load.wait()

    # -------------------------------------------------------------------------------------------------------- ways

    @property
    def app_dsn(self) -> str:
        """To the database by the address, as the role of an application."""
        return as_role(self.address.dsn, APP, str(urlsplit(self.server.dsn()).password))

    @property
    def pooled_dsn(self) -> str:
        """The same through the pooler, if there is one."""
        return self.pooler.dsn if self.pooler else self.app_dsn

    async def sql(self, query: str, *values: object) -> list[Any]:
        """Run a statement on the server, past the address, as its superuser; tried again while it is away."""
        deadline = time.monotonic() + 60
        async with self._asking:
            while True:
                try:
                    if self._watcher is None or self._watcher.is_closed():
                        self._watcher = await asyncpg.connect(self.server.dsn(await self._database()), timeout=5)
                    return list(await self._watcher.fetch(query, *values, timeout=60))
                except AWAY:
                    if time.monotonic() > deadline:
                        raise
                    if self._watcher:
                        self._watcher.terminate()
                        self._watcher = None
                    await asyncio.sleep(0.05)

    async def value(self, query: str, *values: object) -> Any:
        return (await self.sql(query, *values))[0][0]

    async def _database(self) -> str:
        """The bus's database, or any other one until it is there."""
        connection = await asyncpg.connect(self.server.dsn("postgres"), timeout=5)
        try:
            exists = await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", DATABASE)
        finally:
            connection.terminate()
        return DATABASE if exists else "postgres"

    async def session(self) -> asyncpg.Connection:
        """A session of an application, for a fault to hold open."""
        return await asyncpg.connect(as_role(self.server.dsn(DATABASE), APP))

    async def forget_sessions(self) -> None:
        """Close our own connection to the server."""
        if self._watcher:
            await self._watcher.close()
            self._watcher = None

    # ----------------------------------------------------------------------------------------------------- workers

    async def start_worker(self, *prefix: str, direct: str | None = None, **environ: str) -> WorkerProcess:
        """Start a worker that joins the team, and wait until it works; `direct` leads past pooler and address."""
        self._started += 1
        log = self.directory / f"worker-{self._started}.log"
        variables = {
            "PGBUS_DSN": direct or self.pooled_dsn,
            "PGBUS_DIRECT_DSN": direct or self.app_dsn,
            "PGBUS_PROCESS_NAME": f"w{self._started}",
            "PGBUS_LEASE": "10",
            "PGBUS_GRACE": "3",
            "CHAOS_DSN": direct or self.pooled_dsn,
            "PYTHONPATH": str(ROOT),
            **environ,
        }
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *prefix, sys.executable, "-m", "pgbus.cli", "run", "tests.chaos.workload",
                cwd=ROOT, env={**os.environ, **variables}, stdin=DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        worker = WorkerProcess(process, log)
        self.team.append(worker)
        await self.works(worker)
        return worker

    async def works(self, worker: WorkerProcess) -> None:
        """Wait until its listeners claim."""

        async def seen() -> bool:
            assert worker.lives, f"a worker ended: {worker.log[-3000:]}"
            query = "SELECT EXISTS (SELECT FROM pgbus.live_workers WHERE pid = $1 AND last_seen_at > started_at)"
            return bool(await self.value(query, worker.pid))

        await eventually(seen, 120, message="a worker did not start to work")

    async def leader(self) -> WorkerProcess:
        """The team's worker that leads."""

        async def leading() -> WorkerProcess | None:
            rows = await self.sql(
                "SELECT pid FROM pgbus.live_workers WHERE leading_since IS NOT NULL ORDER BY leading_since DESC LIMIT 1"
            )
            return next((one for one in self.team if rows and one.pid == rows[0]["pid"]), None)

        return await eventually(leading, 60, message="nobody leads") or self.team[0]

    async def follower(self) -> WorkerProcess:
        """One of the team's workers that do not lead."""
        leader = await self.leader()
        return self.random.choice([one for one in self.team if one is not leader])

    async def replace(self, worker: WorkerProcess) -> None:
        """End a worker for good, if it is not dead, and start another in its place."""
        worker.signal(signal.SIGCONT) if worker.lives else None
        await worker.kill()
        self.dismiss(worker)
        await self.start_worker()

    def dismiss(self, worker: WorkerProcess) -> None:
        """Count a worker among those that are not meant to be alive."""
        if worker in self.team:
            self.team.remove(worker)
            self.spent.append(worker)

    async def restore_team(self) -> list[str]:
        """Replace workers that ended by themselves; the ends of their logs."""
        fallen = [worker for worker in self.team if not worker.lives]
        for worker in fallen:
            await self.replace(worker)
        return [f"a worker ended by itself: {worker.log[-2000:]}" for worker in fallen]

    # -------------------------------------------------------------------------------------------------------- load

    def calls_files(self) -> list[Path]:
        return sorted(self.directory.glob("calls-*.jsonl"))

    async def start_load(self, processes: int = 2) -> None:
        for number in range(1, processes + 1):
            await self.sql("INSERT INTO accounts (key) SELECT unnest($1::text[])", keys_of(number))
            ways = {"LOAD_DSN": self.app_dsn, "LOAD_POOLED_DSN": self.pooled_dsn, "PYTHONPATH": str(ROOT)}
            calls = str(self.directory / f"calls-{number}.jsonl")
            command = (sys.executable, "-m", "tests.chaos.load", str(number), str(self._rate / processes), calls)
            with (self.directory / f"load-{number}.log").open("wb") as output:
                load = await asyncio.create_subprocess_exec(
                    *command, cwd=ROOT, env={**os.environ, **ways}, stdin=DEVNULL, stdout=output, stderr=output
                )
            self._load.append(load)

    async def stop_load(self) -> None:
        """Have publishers and callers end, which takes as long as a call may."""
        for load in self._load:
            if load.returncode is None:
                load.terminate()
        for number, load in enumerate(self._load, start=1):
            async with asyncio.timeout(90):
                code = await load.wait()
            assert code == 0, (self.directory / f"load-{number}.log").read_text()[-3000:]


def as_role(dsn: str, role: str, password: str | None = None) -> str:
    """The DSN with another role; all roles of a run have one password."""
    parts = urlsplit(dsn)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{role}:{password or parts.password}@{place}"))


def installed(program: str) -> str | None:
    """The path of a program that may be installed for administrators only."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin:/usr/local/sbin")
