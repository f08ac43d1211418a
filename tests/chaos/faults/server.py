"""The server stops, crashes, ends sessions, or has no connection or no disk left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg

from tests.chaos.faults import DIED, DOWN, fault
from tests.chaos.rights import Tmpfs
from tests.chaos.world import APP, World


@fault("the server is stopped, immediate", goal=DOWN, since="healed")
async def stop_immediate(world: World) -> AsyncIterator[None]:
    await asyncio.to_thread(world.server.stop, "immediate")
    yield
    await asyncio.to_thread(world.server.start)


@fault("the server is stopped, fast", goal=DOWN, since="healed")
async def stop_fast(world: World) -> AsyncIterator[None]:
    await asyncio.to_thread(world.server.stop, "fast")
    yield
    await asyncio.to_thread(world.server.start)


@fault("the server is killed", goal=DOWN, since="healed")
async def kill_server(world: World) -> AsyncIterator[None]:
    await asyncio.to_thread(world.server.kill)
    yield
    await asyncio.to_thread(world.server.start)


@fault("sessions are terminated at random", goal=DOWN)
async def terminate_sessions(world: World) -> AsyncIterator[None]:
    for _ in range(5):
        rows = await world.sql("SELECT pid FROM pg_stat_activity WHERE usename = $1 ORDER BY pid", APP)
        chosen = world.random.sample([row["pid"] for row in rows], k=max(1, len(rows) // 4))
        await world.sql("SELECT pg_terminate_backend(pid) FROM unnest($1::integer[]) AS pid", chosen)
        await asyncio.sleep(0.2)
    yield


@fault("max_connections is full, and sessions end", goal=DOWN, since="healed")
async def fill_connections(world: World) -> AsyncIterator[None]:
    """Whoever has a connection loses it and finds no other, as when another service takes them all."""
    hoard: list[asyncpg.Connection] = []
    rows = await world.sql("SELECT pid FROM pg_stat_activity WHERE usename = $1 ORDER BY pid", APP)
    await world.sql("SELECT pg_terminate_backend(pid) FROM unnest($1::integer[]) AS pid",
                    [row["pid"] for row in rows[::2]])  # fmt: skip
    for _ in range(20):  # those who come back are quick, too
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            while True:
                hoard.append(await world.session())
        await asyncio.sleep(0.1)
    yield
    await asyncio.gather(*(one.close() for one in hoard))


@fault("the disk is full", goal=DOWN, since="healed", lacks=Tmpfs.lacks)
async def fill_disk(world: World) -> AsyncIterator[None]:
    assert world.disk
    world.disk.fill()
    await asyncio.sleep(5)
    yield
    world.disk.free()
    # Without room for its log, the server panics, and cannot recover either.
    await asyncio.to_thread(world.server.start)


@fault("nothing at all, as a comparison", goal=DIED)
async def nothing(world: World) -> AsyncIterator[None]:
    yield
