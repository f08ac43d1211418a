"""Calls between processes, some of which die."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest

import pgbus
from tests.conftest import Connect
from tests.support import ROOT, eventually
from tests.support.programs import program_environ
from tests.support.waiting import PATIENCE

Start = Callable[[], Awaitable[Process]]


@pytest.fixture
async def start(database: str) -> AsyncIterator[Start]:
    """Starts one `pgbus run` of the service; those that still live are killed after the test."""
    processes: list[Process] = []
    environ = program_environ({"PGBUS_DSN": database, "PYTHONPATH": str(ROOT)})

    async def start_one() -> Process:
        command = (sys.executable, "-m", "pgbus.cli", "run", "tests.integration.rpc.service")
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=environ, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
        )
        processes.append(process)
        return process

    yield start_one
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def runs(connection: asyncpg.Connection, count: int) -> bool:
    return bool(await connection.fetchval("SELECT count(*) FROM pgbus.rpc_calls WHERE state = 'running'") == count)


@pytest.mark.parametrize("procedure", ["process.wait", "process.block"])
async def test_a_call_whose_server_is_killed_is_lost_within_seconds(
    bus: pgbus.Bus, start: Start, procedure: str, database: str, connect: Connect
) -> None:
    connection = await connect(database)
    await connection.execute("SELECT pg_advisory_lock(4711)")
    server = await start()
    call = asyncio.create_task(bus.call(procedure, timeout=600, wait=True))
    await eventually(lambda: runs(connection, 1))

    loop = asyncio.get_running_loop()
    killed_at = loop.time()
    server.kill()
    with pytest.raises(pgbus.WorkerLost, match="died before it answered"):
        await call
    assert loop.time() - killed_at < PATIENCE  # and not after a lease, or its time
    assert await connection.fetchval("SELECT array_agg(state) FROM pgbus.rpc_calls") == ["lost"]
    with pytest.raises(pgbus.NoWorkerAvailable):
        await bus.call(procedure, timeout=60)


async def test_another_server_takes_what_the_killed_one_had_not_begun(
    bus: pgbus.Bus, start: Start, database: str, connect: Connect
) -> None:
    connection = await connect(database)
    await connection.execute("SELECT pg_advisory_lock(4711)")
    first = await start()
    calls = [asyncio.create_task(bus.call("process.wait", timeout=600, wait=True)) for _ in range(15)]
    await eventually(lambda: runs(connection, 10))
    second = await start()
    await eventually(lambda: runs(connection, 15))
    first.kill()
    await eventually(lambda: sum(call.done() for call in calls) == 10)
    lost = [call for call in calls if call.done()]
    assert {type(call.exception()) for call in lost} == {pgbus.WorkerLost}
    await connection.execute("SELECT pg_advisory_unlock(4711)")
    assert {await call for call in calls if call not in lost} == {second.pid}


async def test_sigterm_lets_the_running_call_finish(
    bus: pgbus.Bus, start: Start, database: str, connect: Connect
) -> None:
    connection = await connect(database)
    await connection.execute("SELECT pg_advisory_lock(4711)")
    server = await start()
    call = asyncio.create_task(bus.call("process.wait", timeout=600, wait=True))
    await eventually(lambda: runs(connection, 1))
    server.send_signal(signal.SIGTERM)
    await eventually(lambda: _serves_nothing(connection))
    await connection.execute("SELECT pg_advisory_unlock(4711)")
    assert await call == server.pid
    async with asyncio.timeout(PATIENCE):
        assert await server.wait() == 0


async def _serves_nothing(connection: asyncpg.Connection) -> bool:
    return await connection.fetchval("SELECT NOT EXISTS (SELECT FROM pgbus.rpc_servers)") is True


async def test_a_hundred_callers_of_several_servers_are_all_answered(bus: pgbus.Bus, start: Start) -> None:
    servers = [await start() for _ in range(4)]
    pids = {server.pid for server in servers}
    # Until each has answered once, so that all of them compete.
    seen: set[int] = set()
    async with asyncio.timeout(PATIENCE):
        while seen != pids:
            seen |= set(await asyncio.gather(*(bus.call("process.pid", timeout=600, wait=True) for _ in range(20))))

    async def call() -> list[int]:
        return [await bus.call("process.pid", timeout=600, returns=int) for _ in range(5)]

    answers = await asyncio.gather(*(call() for _ in range(100)))
    assert [len(one) for one in answers] == [5] * 100
    assert {pid for one in answers for pid in one} <= pids
    assert os.getpid() not in pids
