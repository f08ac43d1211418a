"""Peers that publish through an asyncpg connection of the user: the transactions and the outbox by hand."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence

import asyncpg

from benchmarks.race.peer import Payload, Peer, payload

TABLES = """
CREATE TABLE IF NOT EXISTS race_orders (
    id bigserial PRIMARY KEY, customer text NOT NULL, amount integer NOT NULL
);
CREATE TABLE IF NOT EXISTS race_outbox (
    id bigserial PRIMARY KEY, topic text NOT NULL, payload jsonb NOT NULL, created_at timestamptz NOT NULL DEFAULT now()
);
"""
ORDER = "INSERT INTO race_orders (customer, amount) VALUES ($1, $2)"
BY_HAND = "INSERT INTO race_outbox (topic, payload) VALUES ($1, $2)"
BARE_BULK = "INSERT INTO race_outbox (topic, payload) SELECT $1, p::jsonb FROM unnest($2::text[]) AS p"
TOPIC = "race.order_placed"


class AsyncpgPeer(Peer):
    """A peer that can publish on a connection of asyncpg."""

    connections: Sequence[asyncpg.Connection] = ()

    async def set_up(self, listeners: int, purpose: str) -> None:
        connection = await asyncpg.connect(self.dsn)
        await connection.execute(TABLES)
        await self.create(connection, listeners, purpose)
        await connection.close()

    @abstractmethod
    async def create(self, connection: asyncpg.Connection, listeners: int, purpose: str) -> None:
        """Create the peer's own tables."""

    @abstractmethod
    async def publish(self, connection: asyncpg.Connection, order: Payload) -> None:
        """Publish one event in the connection's transaction."""

    async def open(self, clients: int) -> None:
        self.connections = [await asyncpg.connect(self.dsn) for _ in range(clients)]

    async def transact(self, kind: str, client: int, number: int) -> None:
        connection = self.connections[client]
        async with connection.transaction():
            await connection.execute(ORDER, "order", number)
            if kind == "publish":
                await self.publish(connection, payload(number))
            elif kind == "hand":
                await connection.execute(BY_HAND, TOPIC, json.dumps(payload(number)))

    async def bare_bulk(self, orders: Sequence[Payload]) -> None:
        await self.connections[0].execute(BARE_BULK, TOPIC, [json.dumps(order) for order in orders])

    async def exists(self, query: str) -> bool:
        return bool(await self.connections[0].fetchval(f"SELECT EXISTS ({query})"))
