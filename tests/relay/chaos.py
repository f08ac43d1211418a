"""Chaos for relays: from one bus over a broker into another one, while parts of the way are killed.

    python -m tests.relay.chaos                          all brokers that are installed, each fault, 10,000 events each
    python -m tests.relay.chaos --brokers nats,postgres --faults relay,database --events 2000

A publisher, `pgbus relay --to` and `pgbus relay --from` run as processes. In the middle the fault is done; then all
must be there: no event lost, none twice, none out of order within its key. Doubles at the broker are counted, as they
may be there. `postgres` is the way without a broker: the one relay writes into the other bus, and what is killed in the
place of a broker is the server of that.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
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

    way: str
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


class Way(ABC):
    """A way from one bus to another, and what is in the middle of it."""

    name: str

    @abstractmethod
    async def create_target(self, server: EmbeddedPostgres, place: str) -> str:
        """DSN of the bus at its end; `server` is that of the origin."""

    @abstractmethod
    def commands(self, place: str, origin: str, target: str) -> dict[str, tuple[list[str], str]]:
        """Each relay by its name: its arguments and its DSN."""

    @abstractmethod
    async def break_middle(self) -> None:
        """Kill what is in the middle, and start it again."""

    @abstractmethod
    async def doubles(self, place: str, events: int) -> int:
        """Messages that are in the middle more than once."""


class ByBroker(Way):
    """Over a broker, into a database beside the origin."""

    def __init__(self, broker: Broker) -> None:
        self.name = broker.name
        self._broker = broker

    async def create_target(self, server: EmbeddedPostgres, place: str) -> str:
        await self._broker.prepare(place)
        return await create_bus(server, f"{place}-b")

    def commands(self, place: str, origin: str, target: str) -> dict[str, tuple[list[str], str]]:
        return {
            "out": (["relay", "--name", "out", "--to", self._broker.out(place), "orders.*"], origin),
            "in": (["relay", "--name", "in", "--from", self._broker.source(place)], target),
        }

    async def break_middle(self) -> None:
        if self._broker.survives_kill:
            await asyncio.to_thread(self._broker.kill)
            await asyncio.to_thread(self._broker.start)
        else:
            self._broker.freeze()
            await asyncio.sleep(FROZEN)
            self._broker.thaw()

    async def doubles(self, place: str, events: int) -> int:
        messages = await self._broker.read_again(place, events)
        return len(messages) - len({message.id for message in messages})


class ByPostgres(Way):
    """Without a broker, into a database of another server."""

    name = "postgres"

    def __init__(self, other_server: EmbeddedPostgres) -> None:
        self._other_server = other_server

    async def create_target(self, server: EmbeddedPostgres, place: str) -> str:
        return await create_bus(self._other_server, f"{place}-b")

    def commands(self, place: str, origin: str, target: str) -> dict[str, tuple[list[str], str]]:
        return {"out": (["relay", "--name", "out", "--to", target, "orders.*"], origin)}

    async def break_middle(self) -> None:
        await asyncio.to_thread(self._other_server.restart, "immediate")  # as after a crash

    async def doubles(self, place: str, events: int) -> int:
        return 0


@contextmanager
def open_way(name: str, directory: Path) -> Iterator[Way]:
    """A way by this name, whose broker or other server runs; skips where it is not installed."""
    if name == ByPostgres.name:
        with EmbeddedPostgres() as other_server:
            yield ByPostgres(other_server)
        return
    broker = BROKERS[name](directory)
    try:
        broker.start()
        yield ByBroker(broker)
    finally:
        broker.stop()


class Relays:
    """The relays of a way as processes, which are started again when they are killed."""

    def __init__(self, commands: dict[str, tuple[list[str], str]], log: Path) -> None:
        self._commands = commands
        self._log = log
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start all of them."""
        for name in self._commands:
            self._start(name)

    def restart(self) -> None:
        """Kill each, and start it again."""
        for name in self._commands:
            self._kill(name)
            self._start(name)

    async def supervise(self) -> None:
        """Start again what ends by itself, as systemd would: a relay whose first connection is refused ends."""
        while True:
            for name, process in tuple(self.running.items()):
                if process.poll() is not None:
                    self._start(name)
            await asyncio.sleep(0.5)

    def stop(self) -> None:
        """Kill those that run."""
        for name in self.running:
            self._kill(name)

    def _start(self, name: str) -> None:
        arguments, dsn = self._commands[name]
        with self._log.open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "pgbus.cli", *arguments],
                env={**os.environ, "PGBUS_DSN": dsn, "PGBUS_SERVICE_NAME": "shop"},
                stdout=log,
                stderr=log,
            )

    def _kill(self, name: str) -> None:
        self.running[name].kill()
        self.running[name].wait()


async def run(way: Way, server: EmbeddedPostgres, *, events: int, faults: Sequence[str], directory: Path) -> Verdict:
    """Send events while the faults happen, each at its part of the way, and judge what has arrived."""
    began = time.monotonic()
    place = f"chaos-{random.randrange(10**9)}"
    origin = await create_bus(server, f"{place}-a")
    target = await way.create_target(server, place)
    relays = Relays(way.commands(place, origin, target), directory / "relays.log")
    relays.start()
    supervising = asyncio.create_task(relays.supervise())
    try:
        await eventually(lambda: count(origin, "listeners"), PATIENCE)
        publishing = asyncio.create_task(publish(origin, events))
        for number, fault in enumerate(faults, 1):
            share = events * number // (len(faults) + 1)
            await eventually(lambda share=share: at_least(target, share), PATIENCE)  # type: ignore[misc]
            await inflict(fault, way, server, relays)
        await publishing
        with contextlib.suppress(AssertionError):  # what has not arrived by then counts as lost
            await eventually(lambda: at_least(target, events), PATIENCE)
            await eventually(lambda: is_settled(origin), PATIENCE)
    finally:
        supervising.cancel()
        relays.stop()
    return await judge(way, place, origin, target, events=events, faults=faults, began=began)


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
            except (pgbus.errors.PgbusError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await asyncio.sleep(0.1)

    async with pgbus.create(dsn) as bus:
        for first in range(0, events, KEYS):
            await asyncio.gather(*(publish_one(bus, n) for n in range(first, min(first + KEYS, events))))


async def inflict(fault: str, way: Way, server: EmbeddedPostgres, relays: Relays) -> None:
    """Do it, and undo it."""
    match fault:
        case "relay":
            relays.restart()
        case "broker":
            await way.break_middle()
        case "database":
            await asyncio.to_thread(server.restart, "immediate")  # as after a crash
        case _:
            raise ValueError(fault)


async def ask(dsn: str, query: str) -> list[asyncpg.Record]:
    """Ask a database; nothing while it does not answer."""
    try:
        connection = await asyncpg.connect(dsn)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
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
    way: Way, place: str, origin: str, target: str, *, events: int, faults: Sequence[str], began: float
) -> Verdict:
    """Compare both ends, and count doubles in the middle."""
    # Nobody leads the target: what arrived is in its outbox, in the order of its ids.
    arrived = await ask(target, "SELECT key, CAST(payload ->> 'n' AS int) AS n FROM pgbus.outbox ORDER BY id")
    seen = Counter(row["n"] for row in arrived)
    last: dict[str, int] = {}
    disordered = 0
    for row in arrived:
        disordered += row["n"] < last.get(row["key"], -1)
        last[row["key"]] = row["n"]
    return Verdict(
        way=way.name,
        faults=",".join(faults),
        events=events,
        lost=events - len(seen),
        twice=sum(seen.values()) - len(seen),
        disordered=disordered,
        dead=await count(origin, "dead_letters"),
        refused=len(await ask(target, "SELECT FROM pgbus.received WHERE refused IS NOT NULL")),
        doubles=await way.doubles(place, events),
        seconds=round(time.monotonic() - began, 1),
    )


def table(verdicts: Sequence[Verdict]) -> str:
    """All verdicts, a row each."""
    names = [field.name for field in fields(Verdict)]
    rows = [names, ["---"] * len(names), *([str(getattr(one, name)) for name in names] for one in verdicts)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Run from the command line; exit code 1 where a guarantee did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brokers", default=",".join([*BROKERS, ByPostgres.name]))
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--events", type=int, default=10_000)
    options = parser.parse_args()
    verdicts = []
    for name in options.brokers.split(","):
        with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
            try:
                way = stack.enter_context(open_way(name, Path(directory)))
            except pytest.skip.Exception as skipped:
                print(f"{name}: skipped, {skipped}", flush=True)  # noqa: T201 - its output
                continue
            for fault in options.faults.split(","):
                with EmbeddedPostgres() as server:
                    verdict = asyncio.run(
                        run(way, server, events=options.events, faults=[fault], directory=Path(directory))
                    )
                verdicts.append(verdict)
                print(verdict, file=sys.stderr, flush=True)  # noqa: T201 - its output
                if not verdict.holds:
                    print((Path(directory) / "relays.log").read_text()[-5_000:], file=sys.stderr)  # noqa: T201
    print(table(verdicts))  # noqa: T201 - its output
    sys.exit(0 if verdicts and all(verdict.holds for verdict in verdicts) else 1)


if __name__ == "__main__":
    main()
