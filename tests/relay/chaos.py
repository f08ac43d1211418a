"""Chaos for relays: from one bus over a broker into another one, while parts of the way are killed.

    python -m tests.relay.chaos                          all brokers that are installed, each fault, 10,000 events each
    python -m tests.relay.chaos --brokers nats --faults relay,database --events 2000

A publisher, `pgbus relay --to` and `pgbus relay --from` run as processes. In the middle the fault is done; then all
must be there: no event lost, none twice, none out of order within its key. Doubles at the broker are counted, as they
may be there.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

import pgbus
from pgbus import migrate
from pgbus.embedded import EmbeddedPostgres
from tests.relay.brokers import BROKERS, Broker
from tests.support.waiting import eventually

FAULTS = ("relay", "broker", "database")
KEYS = 40
PATIENCE = 300.0
FROZEN = 3.0


@dataclass
class Verdict:
    """The outcome of a run. All but `doubles` and `seconds` must be 0; doubles at the broker are expected."""

    broker: str
    faults: str
    events: int
    lost: int
    twice: int
    disordered: int
    dead: int
    refused: int
    doubles: int
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether the guarantees held."""
        return not (self.lost or self.twice or self.disordered or self.dead or self.refused)


class Relays:
    """Both relays as processes, which are started again when they are killed."""

    def __init__(self, broker: Broker, place: str, origin: str, target: str, log: Path) -> None:
        out = broker.out(place)
        self._commands = {
            "out": ([*["relay", "--name", "out", "--to"], out, "orders.*"], origin),
            "in": ([*["relay", "--name", "in", "--from"], broker.source(place)], target),
        }
        self._log = log
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        """Start one of them."""
        arguments, dsn = self._commands[name]
        with self._log.open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "pgbus.cli", *arguments],
                env={**os.environ, "PGBUS_DSN": dsn, "PGBUS_SERVICE_NAME": "shop"},
                stdout=log,
                stderr=log,
            )

    def kill(self, name: str) -> None:
        """Kill one of them."""
        self.running[name].kill()
        self.running[name].wait()

    def stop(self) -> None:
        """Kill both."""
        for name in self.running:
            self.kill(name)


async def run(
    broker: Broker, server: EmbeddedPostgres, *, events: int, faults: Sequence[str], directory: Path
) -> Verdict:
    """Send events while the faults happen, each at its part of the way, and judge what has arrived."""
    began = time.monotonic()
    place = f"chaos-{random.randrange(10**9)}"
    origin, target = [await create_bus(server, f"{place}-{side}") for side in ("a", "b")]
    await broker.prepare(place)
    relays = Relays(broker, place, origin, target, directory / "relays.log")
    relays.start("out")
    relays.start("in")
    try:
        await eventually(lambda: count(origin, "listeners"), PATIENCE)
        publishing = asyncio.create_task(publish(origin, events))
        for number, fault in enumerate(faults, 1):
            share = events * number // (len(faults) + 1)
            await eventually(lambda share=share: at_least(target, share), PATIENCE)  # type: ignore[misc]
            await inflict(fault, broker, server, relays)
        await publishing
        await eventually(lambda: at_least(target, events), PATIENCE)
        await eventually(lambda: is_settled(origin), PATIENCE)
    finally:
        relays.stop()
    return await judge(broker, place, origin, target, events=events, faults=faults, began=began)


async def create_bus(server: EmbeddedPostgres, name: str) -> str:
    """DSN of a new bus, with an identity of its own."""
    dsn = await asyncio.to_thread(server.create_database, name)
    await asyncio.to_thread(migrate.upgrade, dsn)
    return dsn


async def publish(dsn: str, events: int) -> None:
    """Publish numbered events, one of each key at a time, each once whatever becomes of the connection."""

    async def publish_one(bus: pgbus.Bus, n: int) -> None:
        while True:
            try:
                await bus.publish({"n": n}, topic="orders.placed", key=f"k{n % KEYS}", dedup_key=f"event {n}")
                return
            except (pgbus.errors.PgbusError, OSError, asyncpg.PostgresError):
                await asyncio.sleep(0.1)

    async with pgbus.create(dsn) as bus:
        for first in range(0, events, KEYS):
            await asyncio.gather(*(publish_one(bus, n) for n in range(first, min(first + KEYS, events))))


async def inflict(fault: str, broker: Broker, server: EmbeddedPostgres, relays: Relays) -> None:
    """Do it, and undo it."""
    match fault:
        case "relay":
            for name in ("out", "in"):
                relays.kill(name)
                relays.start(name)
        case "broker" if broker.survives_kill:
            await asyncio.to_thread(broker.kill)
            await asyncio.to_thread(broker.start)
        case "broker":
            broker.freeze()
            await asyncio.sleep(FROZEN)
            broker.thaw()
        case "database":
            await asyncio.to_thread(server.restart, "immediate")  # as after a crash
        case _:
            raise ValueError(fault)


async def ask(dsn: str, query: str) -> list[asyncpg.Record]:
    """Ask a database; nothing while it does not answer."""
    try:
        connection = await asyncpg.connect(dsn)
    except (OSError, asyncpg.PostgresError):
        return []
    try:
        return await connection.fetch(query)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return []
    finally:
        connection.terminate()


async def count(dsn: str, table: str) -> int:
    """The number of rows of a table."""
    found = await ask(dsn, f"SELECT count(*) FROM pgbus.{table}")
    return int(found[0][0]) if found else 0


async def at_least(dsn: str, number: int) -> bool:
    """Whether this many messages have been received there."""
    return await count(dsn, "received") >= number


async def is_settled(dsn: str) -> bool:
    """Whether nothing is owed to the relay."""
    found = await ask(dsn, "SELECT (SELECT count(*) FROM pgbus.outbox) + (SELECT count(*) FROM pgbus.deliveries)")
    return bool(found) and found[0][0] == 0


async def judge(
    broker: Broker, place: str, origin: str, target: str, *, events: int, faults: Sequence[str], began: float
) -> Verdict:
    """Compare both ends, and count doubles at the broker."""
    # Nobody leads the target: what arrived is in its outbox, in the order of its ids.
    arrived = await ask(target, "SELECT key, CAST(payload ->> 'n' AS int) AS n FROM pgbus.outbox ORDER BY id")
    seen = Counter(row["n"] for row in arrived)
    last: dict[str, int] = {}
    disordered = 0
    for row in arrived:
        disordered += row["n"] < last.get(row["key"], -1)
        last[row["key"]] = row["n"]
    # RabbitMQ's queue is empty by now.
    messages = [] if broker.name == "rabbit" else await broker.read(place, events)
    return Verdict(
        broker=broker.name,
        faults=",".join(faults),
        events=events,
        lost=events - len(seen),
        twice=sum(seen.values()) - len(seen),
        disordered=disordered,
        dead=await count(origin, "dead_letters"),
        refused=len(await ask(target, "SELECT FROM pgbus.received WHERE refused IS NOT NULL")),
        doubles=len(messages) - len({message.id for message in messages}),
        seconds=round(time.monotonic() - began, 1),
    )


def main() -> None:
    """Run from the command line; exit code 1 where a guarantee did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brokers", default=",".join(BROKERS))
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--events", type=int, default=10_000)
    options = parser.parse_args()
    verdicts = []
    for name in options.brokers.split(","):
        with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
            try:
                broker = BROKERS[name](Path(directory))
            except pytest.skip.Exception as skipped:
                print(f"{name}: skipped, {skipped}", flush=True)  # noqa: T201 - its output
                continue
            broker.start()
            stack.callback(broker.stop)
            for fault in options.faults.split(","):
                with EmbeddedPostgres() as server:
                    verdict = asyncio.run(
                        run(broker, server, events=options.events, faults=[fault], directory=Path(directory))
                    )
                verdicts.append(verdict)
                print(verdict, flush=True)  # noqa: T201 - its output
    sys.exit(0 if verdicts and all(verdict.holds for verdict in verdicts) else 1)


if __name__ == "__main__":
    main()
