"""Five services, `pgbus run tests.chaos.tree_service --listener=NAME` each: what one publishes, the next one hears."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import asyncpg

import pgbus

STEPS = ("ordered", "reserved", "charged", "packed", "sent")

bus = pgbus.create()


def _go_on(following: str) -> Callable[[dict[str, int], asyncpg.Connection], Awaitable[None]]:
    async def hear(event: dict[str, int], connection: asyncpg.Connection) -> None:
        await bus.publish(event, topic=f"tree.{following}", using=connection)

    return hear


for step, following in zip(STEPS, (*STEPS[1:], "done"), strict=True):
    bus.listener(f"tree.{step}", name=step, start="beginning", transactional=True)(_go_on(following))
