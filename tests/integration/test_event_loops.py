"""What a bus opens on an event loop ends with it, and a process needs few connections."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import psycopg
import pytest
from asgiref.sync import async_to_sync

import pgbus
from tests.support import eventually
from tests.support.workers import open_bus, running


@pytest.fixture
def bus(database: str) -> pgbus.Bus:
    return pgbus.create(database, service_name="loops")


@pytest.fixture
def watcher(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as opened:
        yield opened


def connections(watcher: psycopg.Connection) -> int:
    """Those to this database, but our own."""
    row = watcher.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend'"
    ).fetchone()
    assert row is not None
    return int(row[0])


async def request(bus: pgbus.Bus) -> None:
    await bus.publish(1, topic="a.b")
    with contextlib.suppress(pgbus.NoWorkerAvailable):
        await bus.call("a.b")


def run_and_close(work: Callable[[pgbus.Bus], Awaitable[None]], bus: pgbus.Bus) -> None:
    """End a loop as carelessly as can be."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(work(bus))
    loop.close()


def test_a_loop_for_each_request_leaves_no_connections(bus: pgbus.Bus, watcher: psycopg.Connection) -> None:
    before = connections(watcher)
    for _ in range(20):
        async_to_sync(request)(bus)
        asyncio.run(request(bus))
    with asyncio.Runner() as runner:
        runner.run(_until(lambda: connections(watcher) == before))
    assert watcher.execute("SELECT count(*) FROM pgbus.outbox").fetchone() == (40,)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_connections_of_a_loop_that_was_only_closed_end_when_the_next_one_comes(
    database: str, watcher: psycopg.Connection
) -> None:
    bus = pgbus.create(database, service_name="loops")
    before = connections(watcher)
    for _ in range(20):
        run_and_close(request, bus)
    # Eventually, here as below: the server ends a session some time after its client has left.
    with asyncio.Runner() as runner:
        runner.run(_until(lambda: connections(watcher) <= before + 4))
    with asyncio.Runner() as runner:
        runner.run(request(bus))
    with asyncio.Runner() as runner:
        runner.run(_until(lambda: connections(watcher) == before))
    del bus
    gc.collect()  # here, where what complains of its carelessness is not heard


def test_a_bus_that_is_closed_is_used_again_on_the_same_loop(bus: pgbus.Bus, watcher: psycopg.Connection) -> None:
    async def use_twice() -> None:
        for _ in range(2):
            await request(bus)
            await _until(lambda: connections(watcher) == 2)  # those of the first time end a little later
            await bus.close()
            await bus.close()

    asyncio.run(use_twice())
    with asyncio.Runner() as runner:
        runner.run(_until(lambda: connections(watcher) == 0))


async def _until(condition: Callable[[], bool]) -> None:
    async def holds() -> bool:
        return condition()

    await eventually(holds)


@pytest.fixture
async def buses(database: str) -> AsyncIterator[list[pgbus.Bus]]:
    """As many processes would have, one each."""
    made = [pgbus.create(database, service_name="loops") for _ in range(20)]
    yield made
    for one in made:
        await one.close()


async def test_calling_opens_one_connection_and_publishing_another(
    database: str, buses: list[pgbus.Bus], watcher: psycopg.Connection
) -> None:
    async with open_bus(database) as server:

        @server.procedure("math.double")
        async def double(number: int) -> int:
            return number * 2

        first, *others = buses
        async with running(server) as worker:
            # It has all connections that it needs: the leader's comes some time after its own.
            await eventually(lambda: worker._parts is not None and worker._parts.leader.leads)
            assert await asyncio.gather(*(first.call("math.double", {"number": 1}) for _ in range(100))) == [2] * 100
            before = connections(watcher)
            for _ in range(3):
                await asyncio.gather(*(one.call("math.double", {"number": 1}) for one in others for _ in range(5)))
            assert connections(watcher) <= before + len(others)
            await asyncio.gather(*(one.publish(1, topic="a.b") for one in others for _ in range(5)))
            assert connections(watcher) <= before + 2 * len(others)
