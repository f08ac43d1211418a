"""The way to the server delays, cuts, refuses, swallows; a pooler is restarted; a host vanishes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

from tests.chaos.faults import DOWN, VANISHED, fault
from tests.chaos.rights import Network, network
from tests.chaos.world import DATABASE, World, as_role
from tests.support.pooler import Pooler


@fault("every connection is reset", goal=DOWN)
async def reset(world: World) -> AsyncIterator[None]:
    world.address.reset()
    yield


@fault("answers are torn in the middle", goal=DOWN)
async def tear(world: World) -> AsyncIterator[None]:
    for _ in range(10):
        world.address.tear()
        await asyncio.sleep(0.2)
    yield
    world.address.restore()


@fault("answers are swallowed, then their connections reset", goal=DOWN, since="healed")
async def swallow_answers(world: World) -> AsyncIterator[None]:
    world.address.hold_answers()
    await asyncio.sleep(1)
    yield
    world.address.reset()
    world.address.restore()


@fault("the network is silent, then connections are reset", goal=DOWN, since="healed")
async def silence(world: World) -> AsyncIterator[None]:
    world.address.silence()
    await asyncio.sleep(world.random.uniform(2, 6))
    yield
    world.address.reset()
    world.address.restore()


@fault("the network is silent, then goes on", goal=DOWN, since="healed")
async def pause(world: World) -> AsyncIterator[None]:
    world.address.silence()
    await asyncio.sleep(world.random.uniform(2, 6))
    yield
    world.address.restore()


@fault("every packet is 50 ms late", goal=DOWN)
async def delay(world: World) -> AsyncIterator[None]:
    world.address.delay = 0.05
    await asyncio.sleep(3)
    yield
    world.address.delay = 0.0


@fault("connections are refused", goal=DOWN, since="healed")
async def refuse(world: World) -> AsyncIterator[None]:
    world.address.refuse()
    await asyncio.sleep(world.random.uniform(1, 4))
    yield
    await world.address.accept()


@fault("the pooler is restarted", goal=DOWN, since="healed", lacks=Pooler.lacks)
async def restart_pooler(world: World) -> AsyncIterator[None]:
    assert world.pooler
    await world.pooler.stop()
    await asyncio.sleep(world.random.uniform(0.1, 3))
    yield
    await world.pooler.start()


@fault("a worker's host vanishes", goal=VANISHED, lacks=Network.lacks)
async def vanish_worker(world: World) -> AsyncIterator[None]:
    with network() as far:
        await world.start_worker(*far.prefix, direct=over(far, world))
        far.cut()
        yield
        await world.team[-1].kill()
        world.dismiss(world.team[-1])


@fault("the leader's host vanishes", goal=VANISHED, lacks=Network.lacks)
async def vanish_leader(world: World) -> AsyncIterator[None]:
    with network() as far:
        await world.start_worker(*far.prefix, direct=over(far, world))
        remote = world.team[-1]
        while (leader := await world.leader()) is not remote:
            await world.replace(leader)
        far.cut()
        yield
        await remote.kill()
        world.dismiss(remote)


def over(far: Network, world: World) -> str:
    """The server's address as the other end of the network sees it."""
    parts = urlsplit(as_role(world.server.dsn(DATABASE), "chaos_app"))
    return urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@{far.ours}:{parts.port}"))
