"""`pgbus run --from`: the listeners that people have, on a broker's messages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.relay.brokers import Message, Redis
from tests.support.services import Services
from tests.support.waiting import eventually

DEPOT = """
    import pgbus

    bus = pgbus.create(service_name="depot")

    @bus.listener("orders.*", name="pack", ordered=True, retry=pgbus.RetryPolicy(max_attempts=3, base_delay=0.01))
    async def pack(event: dict, context: pgbus.Context) -> None:
        if event["n"] == 1 and context.attempt == 1:
            raise ValueError("the first time")
        if event["n"] == 2:
            raise pgbus.Dead("never")
        await bus.publish({"n": event["n"]}, topic="packed", key=context.event.key)
"""


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    broker = Redis(tmp_path / "redis")
    broker.start()
    yield broker
    broker.stop()


async def test_a_service_hears_a_broker_with_the_listeners_that_it_has(
    redis: Redis, services: Services, connection: asyncpg.Connection
) -> None:
    cloud = {"specversion": "1.0", "source": "/erp", "type": "orders.placed", "partitionkey": "k"}
    clouds = [{**cloud, "id": f"A-{n}", "data": {"n": n}} for n in range(4)]
    kind = {"content-type": "application/cloudevents+json"}
    await redis.write("orders", [Message(json.dumps(cloud).encode(), kind) for cloud in clouds])
    directory = services.write("depot", DEPOT)
    async with services.worker(directory, "--from", redis.source("orders")):
        packed = "SELECT count(*) = 3 FROM pgbus.events WHERE topic = 'packed'"
        await eventually(lambda: connection.fetchval(packed))
    rows = await connection.fetch(
        "SELECT CAST(payload ->> 'n' AS int) AS n FROM pgbus.events WHERE topic = 'packed' ORDER BY position"
    )
    assert [row["n"] for row in rows] == [0, 1, 3]
    assert await connection.fetchval("SELECT error FROM pgbus.dead") == "never"
    assert await connection.fetchval("SELECT DISTINCT relay FROM pgbus.received") == "depot-redis-orders"
