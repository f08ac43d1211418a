"""Measures relays: events per second out and in, compared with the broker's own client and the same messages.

Out: a log of events of 500 keys, and one worker that relays it. In addition the client writes the same CloudEvents,
prepared before: 64 at a time, each acknowledged, as the relay does. In: one process receives what is there; the client
fetches and acknowledges it in the same batches. The brokers are those of tests/relay; one that is not installed is left
out.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

import pgbus
from benchmarks.figures import Figure
from benchmarks.support import fresh_bus, running
from pgbus.aio.tasks import end_tasks
from pgbus.cloudevents import CloudEvent
from pgbus.contrib.relay.addresses import Address
from pgbus.contrib.relay.envelope import depart
from pgbus.contrib.relay.opening import receiver_from, sink_at
from pgbus.contrib.relay.outward import CONCURRENCY, add_relay
from pgbus.messages import EventMessage
from tests.relay.brokers import BROKERS, Broker
from tests.support.waiting import eventually

EVENTS = 5_000
KEYS = 500
PATIENCE = 300.0


async def main(dsn: str) -> list[Figure]:
    figures: list[Figure] = []
    for kind in BROKERS.values():
        with tempfile.TemporaryDirectory() as directory:
            try:
                broker = kind(Path(directory))
            except pytest.skip.Exception:
                continue
            broker.start()
            try:
                figures += await _measure(dsn, broker)
            finally:
                broker.stop()
    return figures


async def _measure(dsn: str, broker: Broker) -> list[Figure]:
    await broker.prepare("relay")
    await broker.prepare("client")
    async with fresh_bus(dsn, service_name="shop") as bus:
        out = await _relay_out(bus, broker)
        into = await _relay_in(bus, broker)
    return [
        _figure(f"relay to {broker.name}", out, await _client_out(broker)),
        _figure(f"relay from {broker.name}", into, await _client_in(broker)),
    ]


def _figure(what: str, relay: float, client: float) -> Figure:
    return Figure(
        "", what, [relay / client], digits=2, note=f"{relay:,.0f} events/s", baseline=f"client: {client:,.0f}/s"
    )


async def _relay_out(bus: pgbus.Bus, broker: Broker) -> float:
    address = Address.read(broker.out("relay"))
    outlet = add_relay(bus, ["**"], name="out", open_sink=sink_at(address, bus.config, name="out"))
    connection = await asyncpg.connect(bus.config.dsn)
    try:
        async with running(bus) as worker:
            await worker.ready.wait()
            insert = f"""
                INSERT INTO {bus.config.namespace}.outbox (topic, key, payload)
                SELECT 'orders.placed', 'k' || n % {KEYS}, jsonb_build_object('n', n, 'text', repeat('x', 150))
                FROM generate_series(1, {EVENTS}) AS n"""
            began = time.perf_counter()
            await connection.execute(insert)
            left = f"""
                SELECT (SELECT count(*) FROM {bus.config.namespace}.outbox)
                     + (SELECT count(*) FROM {bus.config.namespace}.deliveries) = 0"""
            await eventually(lambda: connection.fetchval(left), PATIENCE)
            return EVENTS / (time.perf_counter() - began)
    finally:
        await connection.close()
        await outlet.close()


async def _client_out(broker: Broker) -> float:
    clouds = [_cloud(n) for n in range(EVENTS)]
    sink = await sink_at(Address.read(broker.out("client")), pgbus.Config(), name="out")()
    turns = iter(clouds)

    async def write() -> None:
        for cloud in turns:
            await sink.send(cloud)

    began = time.perf_counter()
    await asyncio.gather(*(write() for _ in range(CONCURRENCY)))
    seconds = time.perf_counter() - began
    await sink.close()
    return EVENTS / seconds


def _cloud(n: int) -> CloudEvent:
    raw = f'{{"n": {n}, "text": "{"x" * 150}"}}'
    event = EventMessage(topic="orders.placed", raw=raw, event_id=uuid4(), key=f"k{n % KEYS}")
    return depart(event, bus_id=uuid4(), source="shop")


async def _relay_in(bus: pgbus.Bus, broker: Broker) -> float:
    """Into a bus that has not sent them, which would be echoes."""
    async with fresh_bus(bus.config.dsn or "") as other:
        receiver = receiver_from(Address.read(broker.source("relay")), other.config, name=f"in-{uuid4().hex[:8]}")
        task = asyncio.create_task(receiver.run())
        await asyncio.wait_for(receiver.reading.wait(), PATIENCE)
        began = time.perf_counter()
        await eventually(lambda: receiver.counts["new"] >= EVENTS, PATIENCE)
        seconds = time.perf_counter() - began
        await end_tasks(task)  # redis-py may lose one cancellation
    return EVENTS / seconds


async def _client_in(broker: Broker) -> float:
    address = Address.read(broker.source("client"))
    source = await receiver_from(address, pgbus.Config(), name=f"in-{uuid4().hex[:8]}")._open_source()
    read = 0
    began = time.perf_counter()
    while read < EVENTS:
        read += len(await source.fetch())
        await source.acknowledge()
    seconds = time.perf_counter() - began
    await source.close()
    return EVENTS / seconds
