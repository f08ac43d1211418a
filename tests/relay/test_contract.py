"""What every broker has to pass: out, in, and again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

import pgbus
from pgbus.aio.tasks import end_tasks
from pgbus.config import Config
from pgbus.contrib.relay.addresses import Address
from pgbus.contrib.relay.inward import Receiver
from pgbus.contrib.relay.opening import receiver_from, sink_at
from pgbus.contrib.relay.outward import add_relay
from tests.conftest import Connect
from tests.relay.brokers import Broker, Message, json_bodies
from tests.support.waiting import eventually
from tests.support.workers import open_bus, running, until_idle

PATIENCE = 60.0


@asynccontextmanager
async def relaying(bus: pgbus.Bus, to: str, *, structured: bool = False) -> AsyncIterator[None]:
    """A worker that runs a relay of all events."""
    opened = sink_at(Address.read(to), bus.config, name="out", structured=structured)
    outlet = add_relay(bus, ["**"], name="out", open_sink=opened)
    try:
        async with running(bus):
            yield
    finally:
        await outlet.close()


@asynccontextmanager
async def receiving(dsn: str, source: str, *, name: str = "in", remember: float = 3600) -> AsyncIterator[Receiver]:
    """A relay that receives."""
    receiver = receiver_from(Address.read(source), Config.load({"dsn": dsn}), name=name, remember=remember)
    task = asyncio.create_task(receiver.run())
    try:
        yield receiver
    finally:
        await end_tasks(task)  # redis-py may lose one cancellation


async def published(connection: asyncpg.Connection, count: int) -> list[asyncpg.Record]:
    """The events of the outbox, once there are this many."""
    query = "SELECT event_id, topic, key, payload, headers, published_by FROM pgbus.outbox ORDER BY id"
    await eventually(lambda: connection.fetchval("SELECT count(*) >= $1 FROM pgbus.outbox", count), PATIENCE)
    return await connection.fetch(query)


async def test_events_arrive_in_order_per_key_with_their_ids(
    broker: Broker, place: str, database: str, connection: asyncpg.Connection
) -> None:
    await broker.prepare(place)
    async with open_bus(database, service_name="shop") as bus, relaying(bus, broker.out(place)):
        ids = []
        for n in range(40):
            with pgbus.caused_by(pgbus.Cause(correlation_id="checkout-7")):
                event = await bus.publish({"n": n}, topic="orders.placed", key=f"k{n % 4}", headers={"tenant": "a"})
            ids.append(str(event.event_id))
        await until_idle(connection)
        found = await broker.read(place, 40)
    assert sorted(message.id or "" for message in found) == sorted(ids)
    for k in range(4):
        of_key = [message for message in found if message.key == f"k{k}"]
        assert json_bodies(of_key) == [{"n": n} for n in range(k, 40, 4)]
    headers = found[0].headers
    expected = {"type": "orders.placed", "source": "shop", "specversion": "1.0", "correlationid": "checkout-7"}
    assert {name: headers[broker.prefix + name] for name in expected} == expected
    assert headers[f"{broker.prefix}tenant"] == "a"
    assert headers["content-type"] == "application/json"
    assert headers["traceparent"] == headers[f"{broker.prefix}traceparent"]


async def test_messages_become_events_once_and_what_cannot_be_one_is_kept(
    broker: Broker, place: str, database: str, connection: asyncpg.Connection
) -> None:
    cloud = {"specversion": "1.0", "id": "A-1", "source": "/erp", "type": "erp.invoiced", "partitionkey": "k"}
    binary = {broker.prefix + name: value for name, value in cloud.items()} | {"content-type": "application/json"}
    structured = json.dumps({**cloud, "id": "A-2", "data": {"n": 2}}).encode()
    await broker.prepare(place)
    await broker.write(
        place,
        [
            Message(b'{"n": 1}', binary, key="k"),
            Message(structured, {"content-type": "application/cloudevents+json"}, key="k"),
            Message(b'{"n": 1}', binary, key="k"),  # the same again
            Message(b"not JSON", {}, key="k", id="broken"),
            Message(b'"\\u0000"', {}, key="k", id="nul"),  # which only the database refuses
            Message(b'{"n": 3}', {"tenant": "b"}, key="k", id="plain"),
        ],
    )
    async with receiving(database, broker.source(place)):
        found = await published(connection, 3)
        await eventually(lambda: connection.fetchval("SELECT count(*) = 5 FROM pgbus.received"), PATIENCE)
    assert [json.loads(row["payload"])["n"] for row in found] == [1, 2, 3]
    assert [row["topic"] for row in found] == ["erp.invoiced", "erp.invoiced", place]
    assert found[0]["key"] == "k"
    assert json.loads(found[0]["headers"]).items() >= {"ce_id": "A-1", "ce_source": "/erp"}.items()
    assert json.loads(found[2]["headers"])["tenant"] == "b"
    refused = await connection.fetch("SELECT refused, body FROM pgbus.received WHERE refused IS NOT NULL ORDER BY 1")
    assert sorted(bytes(row["body"]) for row in refused) == [b'"\\u0000"', b"not JSON"]


async def test_what_was_not_acknowledged_comes_again_and_is_no_new_event(
    broker: Broker, place: str, database: str, connection: asyncpg.Connection
) -> None:
    """The reader is cut off after the commit: its acknowledgement never reaches the broker."""
    await broker.prepare(place)
    await broker.write(place, [Message(json.dumps({"n": n}).encode(), key="k", id=str(n)) for n in range(30)])
    async with receiving(database, broker.source(place)) as first:
        acknowledge_nothing(first)
        await published(connection, 30)
    async with receiving(database, broker.source(place)) as second:
        await broker.write(place, [Message(b'{"n": 30}', key="k", id="30")])
        found = await published(connection, 31)
        await eventually(lambda: second.counts["new"] == 1)  # counted after the commit
        assert second.counts["read"] > 1
    assert [json.loads(row["payload"])["n"] for row in found] == list(range(31))


async def test_a_receiver_that_was_idle_when_its_broker_died_goes_on(
    broker: Broker, place: str, database: str, connection: asyncpg.Connection
) -> None:
    if not broker.survives_kill:
        pytest.skip(f"{broker.name} forgets everything when it is killed")
    await broker.prepare(place)
    async with receiving(database, broker.source(place)):
        await broker.write(place, [Message(b'{"n": 0}', key="k", id="0")])
        await published(connection, 1)
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.start)
        await broker.write(place, [Message(b'{"n": 1}', key="k", id="1")])
        found = await published(connection, 2)
    assert [json.loads(row["payload"])["n"] for row in found] == [0, 1]


def acknowledge_nothing(receiver: Receiver) -> None:
    """Have the receiver's acknowledgements go nowhere."""
    opened = receiver._open_source

    async def open_source() -> object:
        source = await opened()

        async def forget() -> None:
            return None

        source.acknowledge = forget  # type: ignore[method-assign]
        return source

    receiver._open_source = open_source  # type: ignore[assignment]


async def test_an_event_goes_out_and_comes_into_another_bus_as_it_was(
    broker: Broker, place: str, database: str, other_bus: str, connection: asyncpg.Connection, connect: Connect
) -> None:
    await broker.prepare(place)
    async with open_bus(database, service_name="shop") as bus, relaying(bus, broker.out(place), structured=True):
        given = {"X-Strange": "1", "api_version": "2"}
        event = await bus.publish({"ü": 1.5}, topic="orders.placed", key="käse", headers=given)
        await until_idle(connection)
        other = await connect(other_bus)
        async with receiving(other_bus, broker.source(place)):
            (arrived,) = await published(other, 1)
        await bus.publish({}, topic="orders.placed")  # a queue holds the first one no longer
        async with receiving(database, broker.source(place), name="echo") as echo:
            await eventually(lambda: echo.counts["echoes"] >= 1, PATIENCE)
        await until_idle(connection)
    assert (arrived["event_id"], arrived["topic"], arrived["key"]) == (event.event_id, "orders.placed", "käse")
    assert json.loads(arrived["payload"]) == {"ü": 1.5}
    headers = json.loads(arrived["headers"])
    assert headers.items() >= {**given, "ce_source": "shop"}.items()
    bus_id, origin = headers["origins"].split()
    assert bus_id == str(await connection.fetchval("SELECT bus_id FROM pgbus.identity"))
    assert origin.startswith(f"{broker.name}://127.0.0.1")
    assert await connection.fetchval("SELECT count(*) FROM pgbus.events") == 2
