"""A worker that is told to stop while the network swallows whatever it sends."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from pgbus.bus import make_worker
from pgbus.telemetry import LeaderSlept
from tests.support.faultproxy import FaultProxy
from tests.support.workers import Inbox, Watch, open_bus

# Seconds: many times what the waits of a stop add up to on a busy machine, and less than a statement's timeout of 60.
SOON = 40.0


@pytest.mark.parametrize("transactional", [False, True], ids=["plain", "transactional"])
async def test_a_worker_stops_while_its_connections_are_silent(database: str, transactional: bool) -> None:
    async with FaultProxy(database) as proxy, open_bus(database) as publisher, open_bus(proxy.dsn, grace=0.2) as bus:
        begun: Inbox[int] = Inbox()
        go_on = asyncio.Event()
        watch = Watch(bus)

        async def handle(event: int, own: asyncpg.Connection) -> None:
            begun.put(event)
            await go_on.wait()
            await own.execute("SELECT 1")

        async def handle_plainly(event: int) -> None:
            begun.put(event)
            await go_on.wait()

        handler = handle if transactional else handle_plainly
        bus.listener("a.b", name="mail", transactional=transactional)(handler)
        worker = make_worker(bus)
        running = asyncio.create_task(worker.run())
        await watch.first(LeaderSlept)
        await publisher.publish(1, topic="a.b")
        await begun.take(1)
        proxy.silence()
        go_on.set()
        async with asyncio.timeout(SOON):
            await worker.stop()
        await running
