"""Lightbus on Redis. It cannot join a transaction: an event is fired after the COMMIT, so that a crash between the two
loses it, and W1 compares unlike things. Redis writes to its log at once and syncs it once a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
import lightbus
from lightbus.utilities.features import ALL_FEATURES

from benchmarks.race.asyncpg_peer import ORDER, AsyncpgPeer
from benchmarks.race.peer import Handled, Payload, payload, serve

BATCH = 100  # of 10, 100, 1000: the fastest
VALIDATE = False  # on, its default: two thirds of the rate
STREAM = "race.*:stream"  # one per API, as it does by default
FIRED_AT_ONCE = 50  # there is no way to fire many


class RaceApi(lightbus.Api):
    order_placed = lightbus.Event(
        parameters=("order_id", "customer", "note", "amount", "currency", "paid", "sent"),
    )

    class Meta:
        name = "race"

    def check_password(self, username: str, password: str) -> bool:
        return (username, password) == ("adam", "secret")


class Lightbus(AsyncpgPeer):
    packages = ("lightbus", "aioredis", "asyncpg")
    loop = "asyncio"
    chunk = 1_000

    def __init__(self, dsn: str, redis: str) -> None:
        super().__init__(dsn, redis)
        transport = {"redis": {"url": redis}}
        # Without the service's name here, each process is a consumer group of its own.
        self.config = {
            "service_name": "race",
            "bus": {"schema": {"transport": transport}},
            "apis": {
                "default": {
                    "validate": VALIDATE,
                    "event_transport": {
                        # Its clean-up would delete the groups that `create` makes, as nobody consumes from them yet.
                        "redis": {"url": redis, "batch_size": BATCH, "max_stream_length": None, "consumer_ttl": 0},
                    },
                    "rpc_transport": transport,
                    "result_transport": transport,
                }
            },
        }

    def _bus(self) -> Any:
        bus = lightbus.create(config=self.config, plugins=[])
        bus.client.disable_proxy()
        bus.client.register_api(RaceApi())
        bus.client.set_features(ALL_FEATURES)
        return bus

    async def create(self, connection: asyncpg.Connection, listeners: int, purpose: str) -> None:
        """Make the consumer groups, by a worker that starts and stops."""
        import aioredis

        redis = await aioredis.create_redis(self.redis)
        for number in range(listeners):
            await redis.xgroup_create(STREAM, f"race-race{number}", "0", mkstream=True)
        redis.close()

    async def open(self, clients: int) -> None:
        await super().open(clients)
        self.bus = self._bus()
        await self.bus.client.lazy_load_now()

    async def transact(self, kind: str, client: int, number: int) -> None:
        if kind != "publish":
            await super().transact(kind, client, number)
            return
        order = payload(number)
        async with self.connections[client].transaction():
            await self.connections[client].execute(ORDER, "order", number)
        await self.bus.race.order_placed.fire_async(**order)

    async def publish(self, connection: asyncpg.Connection, order: Payload) -> None:
        raise NotImplementedError

    async def bulk(self, orders: Sequence[Payload], listeners: int) -> None:
        waiting = iter(orders)

        async def fire() -> None:
            for order in waiting:
                await self.bus.race.order_placed.fire_async(**order)

        await asyncio.gather(*(fire() for _ in range(FIRED_AT_ONCE)))

    async def work(self, listeners: int, handled: Handled, purpose: str) -> None:
        bus = self._bus()
        for number in range(listeners):

            async def handle(event: Any, **order: Any) -> None:
                handled.take(order)

            bus.race.order_placed.listen(handle, listener_name=f"race{number}")
        await bus.client.start_worker()
        await asyncio.Event().wait()

    async def left(self) -> bool:
        import aioredis

        redis = await aioredis.create_redis(self.redis)
        pending = await redis.xpending(STREAM, "race-race0")
        redis.close()
        return bool(pending[0])

    async def call(self) -> None:
        if await self.bus.race.check_password.call_async(username="adam", password="secret") is not True:
            raise RuntimeError("a wrong answer")


if __name__ == "__main__":
    serve(Lightbus)
