"""Workers and their leader die or freeze, and are replaced by a deploy."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

from tests.chaos.faults import DIED, fault
from tests.chaos.world import World

FROZEN = 8.0
"""Seconds; less than the lease, as a machine that is suspended for a moment."""


@fault("a worker is killed", goal=DIED)
async def kill_worker(world: World) -> AsyncIterator[None]:
    worker = await world.follower()
    await worker.kill()
    yield
    await world.replace(worker)


@fault("the leader is killed", goal=DIED)
async def kill_leader(world: World) -> AsyncIterator[None]:
    leader = await world.leader()
    await leader.kill()
    yield
    await world.replace(leader)


@fault("a worker is frozen", goal=DIED)
async def freeze_worker(world: World) -> AsyncIterator[None]:
    worker = await world.follower()
    worker.signal(signal.SIGSTOP)
    yield
    await asyncio.sleep(FROZEN)
    worker.signal(signal.SIGCONT)


@fault("the leader is frozen", goal=DIED)
async def freeze_leader(world: World) -> AsyncIterator[None]:
    leader = await world.leader()
    leader.signal(signal.SIGSTOP)
    yield
    await asyncio.sleep(FROZEN)
    leader.signal(signal.SIGCONT)


@fault("a worker is frozen beyond its lease, and killed", goal=DIED)
async def freeze_and_kill_worker(world: World) -> AsyncIterator[None]:
    worker = await world.follower()
    worker.signal(signal.SIGSTOP)
    yield
    await asyncio.sleep(12)
    await world.replace(worker)


@fault("all workers are killed at once", goal=DIED, since="healed")
async def kill_all_workers(world: World) -> AsyncIterator[None]:
    team = list(world.team)
    await asyncio.gather(*(worker.kill() for worker in team))
    yield
    await asyncio.gather(*(world.replace(worker) for worker in team))


@fault("a rolling deploy", goal=DIED)
async def rolling_deploy(world: World) -> AsyncIterator[None]:
    world.release += 1
    for worker in list(world.team):
        await world.start_worker(PGBUS_SERVICE_VERSION=str(world.release))
        worker.signal(signal.SIGTERM)
        assert await worker.ended(20) == 0, worker.log[-2000:]
        world.dismiss(worker)
    yield
