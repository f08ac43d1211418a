"""From one PostgreSQL to another: once, in order per key, and without echoes."""

from __future__ import annotations

import json

import asyncpg
import pytest

from pgbus.config import Config
from pgbus.contrib.relay.addresses import Address
from pgbus.contrib.relay.opening import sink_at
from pgbus.contrib.relay.outward import Relay, add_relay
from pgbus.errors import ConfigurationError
from pgbus.leader import slumber
from tests.conftest import Connect
from tests.support.sleeping import asleep
from tests.support.waiting import eventually
from tests.support.workers import open_bus, running, until_idle


async def test_a_bridge_in_both_directions_brings_each_event_once_and_does_not_echo(
    database: str, other_bus: str, connect: Connect
) -> None:
    here, there = await connect(database), await connect(other_bus)
    async with open_bus(database, service_name="shop") as shop, open_bus(other_bus, service_name="depot") as depot:
        outlets = [
            add_relay(bus, ["**"], name="bridge", open_sink=sink_at(Address.read(to), bus.config, name="bridge"))
            for bus, to in ((shop, other_bus), (depot, database))
        ]
        async with running(shop), running(depot):
            for n in range(30):
                await shop.publish({"n": n}, topic="orders.placed", key=f"k{n % 3}")
                await depot.publish({"n": n}, topic="parcels.sent", key=f"k{n % 3}")
            await until_events(here, 60)
            await until_events(there, 60)
            await until_idle(here)
            await until_idle(there)
        for outlet in outlets:
            await outlet.close()
    for connection, topic, relayed_by in ((there, "orders.placed", "shop"), (here, "parcels.sent", "depot")):
        rows = await connection.fetch(
            "SELECT e.key, CAST(e.payload ->> 'n' AS int) AS n, e.headers FROM pgbus.events AS e"
            " WHERE e.topic = $1 ORDER BY position", topic
        )  # fmt: skip
        for k in range(3):
            assert [row["n"] for row in rows if row["key"] == f"k{k}"] == list(range(k, 30, 3))
        assert json.loads(rows[0]["headers"])["ce_source"] == relayed_by
        assert await connection.fetchval("SELECT count(*) FROM pgbus.events") == 60
        assert await connection.fetchval("SELECT count(*) FROM pgbus.received") == 30


async def test_a_relay_sleeps_when_nothing_is_owed_and_an_event_wakes_it(
    database: str, other_bus: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slumber, "QUIET", 0.3)
    there = await connect(other_bus)
    async with open_bus(database) as publisher, open_bus(database) as bus:
        outlet = add_relay(bus, ["**"], name="b", open_sink=sink_at(Address.read(other_bus), bus.config, name="b"))
        async with running(bus) as worker:
            for count in (1, 2):
                await asleep(worker)
                await publisher.publish({"n": count}, topic="orders.placed")
                await until_sent(there, count)
            await asleep(worker)
        await outlet.close()


async def until_sent(connection: asyncpg.Connection, count: int) -> None:
    """Wait until the outbox has this many events; no worker takes them."""
    await eventually(lambda: connection.fetchval("SELECT count(*) = $1 FROM pgbus.outbox", count))


async def until_events(connection: asyncpg.Connection, count: int) -> None:
    """Wait until the log has this many events."""
    await eventually(lambda: connection.fetchval("SELECT count(*) >= $1 FROM pgbus.events", count), 60)


async def test_what_is_sent_again_is_there_once(database: str, other_bus: str, connect: Connect) -> None:
    there = await connect(other_bus)
    async with open_bus(database) as bus:
        sent = [await bus.publish({"n": n}, topic="orders.placed") for n in range(3)]
        outlet = add_relay(bus, ["**"], name="b", open_sink=sink_at(Address.read(other_bus), bus.config, name="b"))
        for _ in range(2):
            for event in sent:
                await Relay(bus, outlet).handle(event)
        await outlet.close()
    assert await there.fetchval("SELECT array_agg(event_id ORDER BY id) FROM pgbus.outbox") == [
        event.event_id for event in sent
    ]


async def test_modes_are_of_brokers() -> None:
    with pytest.raises(ConfigurationError, match="leave --structured out"):
        sink_at(Address.read("postgresql://h/db"), Config(), name="b", structured=True)
