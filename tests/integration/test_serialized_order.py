"""The order of a key's events is that of the writes that make their transactions wait for each other."""

from __future__ import annotations

import asyncio

import asyncpg

import pgbus
from tests.conftest import Connect
from tests.support.leading import Leading
from tests.support.rows import Rows
from tests.support.workers import Inbox, open_bus, running

POSITIONS = "SELECT (payload ->> 'n')::integer FROM pgbus.events ORDER BY position"
CLIENTS, EACH = 6, 15


async def test_events_published_after_the_write_that_serializes_them_come_in_the_order_of_the_commits(
    database: str, connect: Connect
) -> None:
    connection = await connect(database)
    await connection.execute("CREATE TABLE accounts (id int PRIMARY KEY, n int); INSERT INTO accounts VALUES (1, 0)")
    async with open_bus(database) as bus:
        inbox: Inbox[int] = Inbox()

        @bus.listener("account.changed", name="follow", ordered=True)
        async def follow(event: dict[str, int]) -> None:
            inbox.put(event["n"])

        async def change(client: asyncpg.Connection) -> None:
            for _ in range(EACH):
                async with client.transaction():
                    n = await client.fetchval("UPDATE accounts SET n = n + 1 WHERE id = 1 RETURNING n")
                    await bus.publish({"n": n}, topic="account.changed", key="1", using=client)

        async with running(bus):
            clients = [await connect(database) for _ in range(CLIENTS)]
            await asyncio.gather(*map(change, clients))
            assert await inbox.take(CLIENTS * EACH) == list(range(1, CLIENTS * EACH + 1))


async def test_events_of_transactions_that_do_not_wait_come_as_published_if_one_look_sees_both(
    bus: pgbus.Bus, database: str, connect: Connect
) -> None:
    """And as their transactions committed, if the leader looks between the commits."""
    connection, first, second = [await connect(database) for _ in range(3)]
    await Rows(connection).listener("follow", "**", lanes=8)
    leading = await Leading.start(await connect(database))
    for has_look_between, expected in ((False, [1, 2]), (True, [1, 2, 4, 3])):
        begun = [first.transaction(), second.transaction()]
        for transaction, client in zip(begun, (first, second), strict=True):
            await transaction.start()
            await bus.publish({"n": len(expected) - 1 + (client is second)}, topic="a.b", key="k", using=client)
        await begun[1].commit()
        if has_look_between:
            await leading.drain()
        await begun[0].commit()
        await leading.drain()
        assert [n for (n,) in await connection.fetch(POSITIONS)] == expected
