"""What a chaos test plays on: one database, the real processes on it, and what their handlers told."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import asyncpg

import pgbus
from tests.support import ROOT, eventually
from tests.support.waiting import PATIENCE

T = TypeVar("T")

SOAK = int(os.environ.get("PGBUS_SOAK", "0"))
"""How many times over the tests repeat what a CI run does once or twice."""

TABLES = """
CREATE TABLE handled (n integer NOT NULL, pid integer NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE started (LIKE handled INCLUDING ALL);
CREATE TABLE effects (LIKE handled INCLUDING ALL);
"""


class WorkerProcess:
    """One `pgbus run`, and its log."""

    def __init__(self, process: Process, log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def lives(self) -> bool:
        return self._process.returncode is None

    @property
    def log(self) -> str:
        return self._log.read_text()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def kill(self) -> None:
        """The end without any warning: SIGKILL."""
        if self.lives:
            self._process.kill()
        await self._process.wait()

    async def ended(self, timeout: float = PATIENCE) -> int:
        """The exit code."""
        async with asyncio.timeout(timeout):
            return await self._process.wait()


class Stage:
    """`dsn` is the direct way to the database; `connection` is the test's own."""

    def __init__(self, dsn: str, *, logs: Path) -> None:
        self.dsn = dsn
        self.bus = pgbus.create(dsn)
        self.workers: list[WorkerProcess] = []
        self._logs = logs
        self._numbers = itertools.count()
        self._gate: asyncpg.Connection | None = None
        self._connection: asyncpg.Connection | None = None

    async def __aenter__(self) -> Self:
        await self.connect()
        await self.connection.execute(TABLES)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers:
            await worker.kill()
        self.print_logs()
        if self._gate:
            self._gate.terminate()
        self.connection.terminate()
        await self.bus.close()

    async def connect(self) -> None:
        """Open the test's own connection, again after a crash of the server."""
        if self._connection:
            self._connection.terminate()
        self._connection = await asyncpg.connect(self.dsn)

    @property
    def connection(self) -> asyncpg.Connection:
        assert self._connection is not None
        return self._connection

    def print_logs(self) -> None:
        for worker in self.workers:
            print(f"--- worker {worker.pid}", worker.log, sep="\n")  # noqa: T201 - pytest shows it with the failure

    # ------------------------------------------------------------------------------------------------------ workers

    async def start(
        self,
        *listeners: str,
        module: str = "tests.chaos.service",
        dsn: str | None = None,
        skip: Sequence[str] = (),
        root: Path = ROOT,
        **settings: object,
    ) -> WorkerProcess:
        """Start `pgbus run` for these listeners of a module; `settings` become PGBUS_ variables, except CHAOS_ ones.

        `root` is the directory of the package. A leader keeps leading while a busy machine has it be silent, unless
        CHAOS_SILENCE says for how long it may be.
        """
        log = self._logs / f"worker-{next(self._numbers)}.log"
        options = [f"--listener={name}" for name in listeners] + [f"--skip={name}" for name in skip]
        environment = {
            **os.environ,
            "PGBUS_DSN": dsn or self.dsn,
            "CHAOS_DSN": self.dsn,
            "CHAOS_SILENCE": "1min",
            "PYTHONPATH": str(root),
            **{_variable(name): str(value) for name, value in settings.items()},
        }
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "pgbus.cli", "run", module, *options,
                cwd=root, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        worker = WorkerProcess(process, log)
        self.workers.append(worker)
        return worker

    async def start_idle(self, *, silence: str = "1min") -> WorkerProcess:
        """A worker without listeners, which leads if nobody does; returns once it is registered, and somebody leads."""
        worker = await self.start(skip=ALL_LISTENERS, CHAOS_SILENCE=silence)
        await self.registered(worker)
        await eventually(self.leader_pid)  # else one that starts after it may be the first to lead
        return worker

    async def registered(self, worker: WorkerProcess) -> None:
        await eventually(lambda: self.value("SELECT id FROM pgbus.workers WHERE pid = $1", worker.pid), PATIENCE)

    async def start_follower(self, leader: WorkerProcess, listener: str) -> WorkerProcess:
        """A worker that leads when that leader is silent, and does not lead yet; returns once it is registered.

        Once it leads, it stays the leader.
        """
        while True:
            worker = await self.start(listener)
            await self.registered(worker)
            if await eventually(self.leader_pid) == leader.pid:
                return worker
            await worker.kill()  # on a busy machine, the other one had been silent for too long

    async def until_leads(self, worker: WorkerProcess, timeout: float = PATIENCE) -> None:
        """Wait until that worker leads, and has said so: it may lead, and work, before it can write it."""

        async def does() -> bool:
            return await self.leader_pid() == worker.pid

        await eventually(does, timeout, message=f"worker {worker.pid} does not lead")

    async def leader_pid(self) -> int | None:
        """The process that leads now: it said so last, and the leader's lock is held."""
        pid: int | None = await self.connection.fetchval(
            """
            SELECT w.pid
            FROM pgbus.workers AS w
            WHERE w.leading_since IS NOT NULL
              AND EXISTS (
                SELECT FROM pg_locks AS l
                WHERE l.locktype = 'advisory' AND l.granted
                  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                  AND l.classid::bigint = hashtext('pgbus.leader')::bigint & 4294967295)
            """
        )
        return pid

    # --------------------------------------------------------------------------------------------------------- gate

    async def close_gate(self) -> None:
        """Let handlers of gated events wait from now on."""
        self._gate = await asyncpg.connect(self.dsn)
        await self._gate.execute("SELECT pg_advisory_lock(4711)")

    async def open_gate(self) -> None:
        assert self._gate is not None
        await self._gate.close()
        self._gate = None

    # ------------------------------------------------------------------------------------------------------- events

    async def publish(self, topic: str, numbers: Iterable[int], *, key: str | None = None) -> None:
        if key is None:
            await self.bus.publish_many([{"n": number} for number in numbers], topic=topic)
            return
        async with self.connection.transaction():
            for number in numbers:
                await self.bus.publish({"n": number}, topic=topic, key=key, using=self.connection)

    async def publish_rolled_back(self, topic: str, numbers: Iterable[int]) -> None:
        transaction = self.connection.transaction()
        await transaction.start()
        await self.bus.publish_many([{"n": number} for number in numbers], topic=topic, using=self.connection)
        await transaction.rollback()

    # -------------------------------------------------------------------------------------------------- what it told

    async def value(self, query: str, *arguments: object) -> object:
        return await self.connection.fetchval(query, *arguments)

    async def count(self, table: str, *, pid: int | None = None) -> int:
        found = await self.connection.fetchval(
            f"SELECT count(DISTINCT n) FROM {table} WHERE $1::integer IS NULL OR pid = $1", pid
        )
        return int(found)

    async def numbers(self, table: str) -> list[int]:
        """What was told in that table, in the order of the numbers; one that was told twice is there twice."""
        return [row["n"] for row in await self.connection.fetch(f"SELECT n FROM {table} ORDER BY n")]

    async def wait_for(self, table: str, count: int, *, pid: int | None = None, timeout: float = 2 * PATIENCE) -> None:
        """Wait until so many different numbers were told in that table."""

        async def told() -> bool:
            return await self.count(table, pid=pid) >= count

        await eventually(told, timeout, message=f"{table} did not reach {count}")

    async def settled(self, timeout: float = 2 * PATIENCE) -> None:
        """Wait until nothing is owed to anyone."""

        async def nothing_owed() -> bool:
            return await self.value(
                """SELECT NOT EXISTS (SELECT FROM pgbus.outbox) AND NOT EXISTS (SELECT FROM pgbus.deliveries)
                   AND NOT EXISTS (SELECT FROM pgbus.listeners WHERE cursor IS NOT NULL)"""
            ) is True  # fmt: skip

        try:
            await eventually(nothing_owed, timeout, message="something is still owed")
        except AssertionError as error:
            rows = await self.connection.fetch("SELECT d.*, now() FROM pgbus.deliveries AS d LIMIT 5")
            error.add_note(f"such as {[dict(row) for row in rows]}")
            raise

    async def dead_letters(self) -> list[tuple[str, int]]:
        rows = await self.connection.fetch(
            "SELECT listener_name, (payload ->> 'n')::integer AS n FROM pgbus.dead ORDER BY 1, 2"
        )
        return [(row["listener_name"], row["n"]) for row in rows]


ALL_LISTENERS = (
    "record", "gated", "hanging", "threaded", "effect", "ordered", "poisoned", "bystander", "blocking",
    "one_by_one", "laned", "together", "gated_effect",
)  # fmt: skip


def _variable(name: str) -> str:
    return name if name.startswith("CHAOS_") else f"PGBUS_{name.upper()}"


async def until_terminated(work: Coroutine[None, None, T]) -> T:
    """Have SIGTERM end the work as Ctrl-C does, with its processes."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task
