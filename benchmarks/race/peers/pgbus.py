"""pgbus itself, as `pgbus run` starts it: history of every attempt, uvloop where it is installed."""

from __future__ import annotations

import gc
from collections.abc import Sequence

import asyncpg
import msgspec

import pgbus
from benchmarks.race.asyncpg_peer import TOPIC, AsyncpgPeer
from benchmarks.race.peer import Handled, Payload, serve
from benchmarks.support import running
from pgbus import migrate
from pgbus.bus import make_worker


@pgbus.event(TOPIC)
class OrderPlaced(msgspec.Struct):
    order_id: int
    customer: str
    note: str
    amount: float
    currency: str
    paid: bool
    sent: float


class Pgbus(AsyncpgPeer):
    packages = ("pgbus", "asyncpg", "uvloop")
    chunk = 10_000

    def __init__(self, dsn: str, redis: str) -> None:
        super().__init__(dsn, redis)
        self.bus = pgbus.create(dsn)

    async def create(self, connection: asyncpg.Connection, listeners: int, purpose: str) -> None:
        migrate.upgrade(self.dsn, namespace=self.bus.config.namespace)
        # A worker registers its listeners, so that what is published before it handles anything is kept for it.
        self._declare(listeners, Handled())
        async with running(self.bus) as worker:
            await worker.ready.wait()

    async def publish(self, connection: asyncpg.Connection, order: Payload) -> None:
        await self.bus.publish(OrderPlaced(**order), using=connection)

    async def bulk(self, orders: Sequence[Payload], listeners: int) -> None:
        async with self.connections[0].transaction():
            await self.bus.publish_many([OrderPlaced(**order) for order in orders], using=self.connections[0])

    def _declare(self, listeners: int, handled: Handled) -> None:
        for number in range(listeners):

            async def handle(event: OrderPlaced) -> None:
                handled.take({"sent": event.sent})

            self.bus.listener(OrderPlaced, name=f"race{number}")(handle)

    async def work(self, listeners: int, handled: Handled, purpose: str) -> None:
        self._declare(listeners, handled)
        if purpose == "W8":

            @self.bus.procedure("race.check_password", concurrency=50)
            async def check_password(username: str, password: str) -> bool:
                return (username, password) == ("adam", "secret")

        gc.freeze()  # as `open_runner` does for `pgbus run`
        await make_worker(self.bus).run()

    async def left(self) -> bool:
        return await self.exists(f'SELECT FROM "{self.bus.config.namespace}".pending')

    async def call(self) -> None:
        arguments = {"username": "adam", "password": "secret"}
        if await self.bus.call("race.check_password", arguments, timeout=30) is not True:
            raise RuntimeError("a wrong answer")


if __name__ == "__main__":
    serve(Pgbus)
