"""A bus that sleeps after a moment, in tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pgbus
from pgbus.worker.worker import Worker
from tests.support.orders import collect
from tests.support.waiting import eventually
from tests.support.workers import Inbox, open_bus, running

PATIENCE = 30.0


async def asleep(*workers: Worker) -> None:
    """Wait until all of them sleep."""
    await eventually(lambda: all(worker.is_asleep for worker in workers), PATIENCE)


@asynccontextmanager
async def pair(database: str) -> AsyncIterator[tuple[pgbus.Bus, Worker, Worker, Inbox[int]]]:
    """A publisher's bus, a worker that leads and has no listeners, another one with a listener, and what it got."""
    async with (
        open_bus(database) as publisher,
        open_bus(database, process_name="leader") as first,
        open_bus(database, process_name="follower") as second,
        running(first) as leader,
    ):
        await eventually(lambda: leader.leads, PATIENCE)
        inbox = collect(second, name="mail")
        async with running(second) as follower:
            yield publisher, leader, follower, inbox
