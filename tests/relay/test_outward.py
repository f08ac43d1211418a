"""What a relay does when the other side is away, or refuses an event."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from pgbus.contrib.relay.addresses import Address
from pgbus.contrib.relay.opening import sink_at
from pgbus.contrib.relay.outward import MOST_REFUSALS, Relay, add_relay
from pgbus.errors import BrokerUnreachableError, Dead, MessageRefusedError
from tests.relay.brokers import BROKERS, Broker
from tests.support.workers import open_bus, running, until_idle


@pytest.mark.parametrize("name", ["nats", "redis"])
async def test_what_is_refused_is_tried_again_and_then_dead(name: str, tmp_path: Any, database: str) -> None:
    broker = BROKERS[name](tmp_path)
    broker.start()
    try:
        async with open_bus(database) as bus:
            if name == "redis":
                async with broker._client() as client:  # type: ignore[attr-defined]
                    await client.set("taken", "not a stream")
            outlet = add_relay(
                bus, ["**"], name="out", open_sink=sink_at(Address.read(broker.out("taken")), bus.config, name="out")
            )
            event = await bus.publish({}, topic="a.b")
            relay = Relay(bus, outlet)
            for _ in range(MOST_REFUSALS - 1):
                with pytest.raises(MessageRefusedError, match=f"{name}://127.0.0.1:{broker.port}/taken"):
                    await relay.handle(event)
            with pytest.raises(Dead, match="refuses the event"):
                await relay.handle(event)
            await outlet.close()
    finally:
        broker.stop()


async def test_events_wait_while_the_broker_is_away_and_none_is_dead(
    tmp_path: Any, database: str, connection: asyncpg.Connection
) -> None:
    broker: Broker = BROKERS["redis"](tmp_path)
    async with open_bus(database) as bus:
        address = Address.read(broker.out("orders"))
        outlet = add_relay(bus, ["**"], name="out", open_sink=sink_at(address, bus.config, name="out"))
        event = await bus.publish({"n": 1}, topic="a.b", key="k")
        with pytest.raises(BrokerUnreachableError, match="has not acknowledged"):
            await Relay(bus, outlet).handle(event)
        await bus.publish({"n": 2}, topic="a.b", key="k")
        try:
            async with running(bus):
                await asyncio.to_thread(broker.start)
                await until_idle(connection, timeout=60)
            assert [message.body for message in await broker.read("orders", 2)] == [b'{"n": 1}', b'{"n": 2}']
        finally:
            await outlet.close()
            broker.stop()
    assert await connection.fetchval("SELECT count(*) FROM pgbus.dead_letters") == 0
