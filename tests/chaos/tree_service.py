"""Five services, `pgbus run tests.chaos.tree_service` with CHAOS_SERVICE each; without it, one process is all of them.

One `tree.ordered` has this tree, several levels deep, with a call and an event that is delivered later:

    tree.ordered
      tree.reserved
      tree.bank (call)
        tree.booked
      tree.charged
        tree.mailed (later)
          tree.reported
"""

from __future__ import annotations

import os

import asyncpg

import pgbus

bus = pgbus.create(service_name=os.environ.get("CHAOS_SERVICE", "all"))
RETRY = pgbus.RetryPolicy(max_attempts=50, base_delay=0.1, max_delay=1)


def is_here(service: str) -> bool:
    return os.environ.get("CHAOS_SERVICE", service) == service


# Those that are not transactional publish again when they are killed before they are done.

if is_here("stock"):

    @bus.listener("tree.ordered", name="reserve", start="beginning", retry=RETRY)
    async def reserve(event: dict[str, int]) -> None:
        await bus.publish(event, topic="tree.reserved")


if is_here("payments"):

    @bus.listener("tree.ordered", name="charge", start="beginning", retry=RETRY)
    async def charge(event: dict[str, int]) -> None:
        await bus.call("tree.bank", event, wait=True)
        await bus.publish(event, topic="tree.charged")


if is_here("bank"):

    @bus.procedure("tree.bank")
    async def bank(n: int) -> None:
        await bus.publish({"n": n}, topic="tree.booked")


if is_here("mail"):

    @bus.listener("tree.charged", name="mail", start="beginning", transactional=True, retry=RETRY)
    async def mail(event: dict[str, int], connection: asyncpg.Connection) -> None:
        await bus.publish(event, topic="tree.mailed", using=connection, delay=0.1)


if is_here("reports"):

    @bus.listener("tree.mailed", name="report", start="beginning", transactional=True, retry=RETRY)
    async def report(event: dict[str, int], connection: asyncpg.Connection) -> None:
        await bus.publish(event, topic="tree.reported", using=connection)
