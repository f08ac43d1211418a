"""Workers that live lose their sessions, one or all of them: that is nobody's death."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
import pytest

import pgbus
from pgbus import migrate
from pgbus.embedded import EmbeddedPostgres
from pgbus.leader import maintenance
from pgbus.leader.maintenance import Maintenance
from pgbus.telemetry import LeaderChanged, SessionOpened, TaskEnded
from pgbus.worker.worker import Worker
from tests.support import eventually
from tests.support.faultproxy import FaultProxy
from tests.support.waiting import PATIENCE
from tests.support.workers import Inbox, Watch, open_bus, running, until_idle

CRASHES = "SELECT crashes FROM pgbus.deliveries WHERE claim_token IS NOT NULL"
WORKER_SESSION = """
    SELECT pg_terminate_backend(l.pid) FROM pg_locks AS l JOIN pgbus.workers AS w ON w.id = l.objid::integer
    WHERE l.locktype = 'advisory' AND l.classid::bigint = hashtext('pgbus.worker')::bigint & 4294967295
      AND w.name = 'busy'
"""


@dataclass
class Fleet:
    """A leader that handles topic `a.quick`, and a worker whose handler of the one event of `a.slow` waits.

    The worker's run of the schedule `task`, which both declare, waits as well; `runs` are the names of who began it.
    """

    leader: pgbus.Bus
    first: Worker
    watch_leader: Watch
    watch_worker: Watch
    begun: Inbox[int]
    quick: Inbox[int]
    runs: Inbox[str]
    go_on: asyncio.Event


@asynccontextmanager
async def fleet(dsn: str, worker_dsn: str) -> AsyncIterator[Fleet]:
    async with (
        open_bus(dsn, process_name="leader", poll_interval=0.2) as leader,
        open_bus(worker_dsn, process_name="busy", poll_interval=0.2) as worker,
    ):
        watch_leader, watch_worker = Watch(leader), Watch(worker)
        begun, quick, runs, go_on = Inbox[int](), Inbox[int](), Inbox[str](), asyncio.Event()

        @leader.listener("a.quick", name="quick")
        async def handle_quick(event: int) -> None:
            quick.put(event)

        @worker.listener("a.slow", name="slow")
        async def handle_slowly(event: int) -> None:
            begun.put(event)
            await go_on.wait()

        @worker.client.every(hours=1, name="task", also_run_immediately=True)
        async def run_slowly() -> None:
            runs.put("busy")
            await go_on.wait()

        async with running(leader) as first:
            await watch_leader.first(LeaderChanged)
            async with running(worker):
                await leader.publish(1, topic="a.slow")
                await begun.take(1)
                await runs.take(1)
                leader.client.every(hours=1, name="task", also_run_immediately=True)(lambda: runs.put("leader"))
                yield Fleet(leader, first, watch_leader, watch_worker, begun, quick, runs, go_on)


class Looks:
    """A leader's looks for the work of the dead, each when it is asked for."""

    def __init__(self) -> None:
        self._wanted = asyncio.Semaphore(0)
        self._done = asyncio.Semaphore(0)
        do_round = Maintenance._do_round

        async def do_round_when_wanted(leading: Maintenance, *, frees: bool) -> None:
            if frees:
                await self._wanted.acquire()
            await do_round(leading, frees=frees)
            if frees:
                self._done.release()

        self.do_round = do_round_when_wanted

    async def one(self) -> None:
        """Have the leader look once."""
        self._wanted.release()
        async with asyncio.timeout(PATIENCE):
            await self._done.acquire()


async def test_restarts_of_the_server_count_as_no_death(
    own_server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate.upgrade(own_server.dsn())
    monkeypatch.setattr(maintenance, "CLAIMS_INTERVAL", 0.01)
    monkeypatch.setattr(maintenance, "RETURN_TIME", PATIENCE)  # a busy machine takes its time to come back
    async with FaultProxy(own_server.dsn()) as proxy, fleet(own_server.dsn(), proxy.dsn) as workers:
        for restart in range(3):
            proxy.silence()
            await asyncio.to_thread(own_server.restart, "fast")
            proxy.reset()
            # The leader is back, and would have looked for dead workers many times by the end of this.
            await workers.watch_leader.first(SessionOpened, after=restart + 1)
            await eventually(lambda: workers.first.leads)
            for number in range(5):
                await workers.leader.publish(number, topic="a.quick")
                await workers.quick.take(5 * restart + number + 1)
            proxy.restore()
            await workers.watch_worker.first(SessionOpened, after=restart + 1)
        connection = await asyncpg.connect(own_server.dsn())
        try:
            assert await connection.fetchval(CRASHES) == 0
            workers.go_on.set()
            await until_idle(connection)
        finally:
            await connection.close()
        assert workers.begun.items == [1]
        assert (await workers.watch_worker.first(TaskEnded)).outcome == "done"
        assert workers.runs.items == ["busy"]


async def test_a_session_that_comes_back_counts_as_no_death(
    database: str, connect: Callable[[str], Awaitable[asyncpg.Connection]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine takes its time to open a session: the leader looks once before it is open again, and once after.
    monkeypatch.setattr(maintenance, "CLAIMS_INTERVAL", 0.01)
    looks = Looks()
    monkeypatch.setattr(Maintenance, "_do_round", looks.do_round)
    connection = await connect(database)
    async with fleet(database, database) as workers:
        for ended in range(5):
            assert await connection.fetchval(WORKER_SESSION)
            await looks.one()
            await workers.watch_worker.first(SessionOpened, after=ended + 1)
            await looks.one()
        assert await connection.fetchval(CRASHES) == 0
        workers.go_on.set()
        await until_idle(connection)
        assert workers.begun.items == [1]
        assert (await workers.watch_worker.first(TaskEnded)).outcome == "done"
        assert workers.runs.items == ["busy"]
