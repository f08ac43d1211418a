"""The protocol of a peer's program: commands come as lines of JSON on stdin, answers go as lines of JSON to stdout.

A program runs as a client (it publishes) or as a worker (it handles); the harness starts as many as a workload needs.
Only the standard library is imported here, as each peer has an environment of its own. `peer.mjs` is the same for Node.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any, TextIO

Payload = dict[str, Any]


def payload(number: int) -> Payload:
    """An order of about 200 bytes of JSON, with the time at which it was made."""
    return {
        "order_id": number,
        "customer": "c" * 40,
        "note": "n" * 70,
        "amount": 12.5,
        "currency": "EUR",
        "paid": True,
        "sent": time.time(),
    }


def cpu() -> float:
    """Seconds of CPU that this process has used, by all of its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def quantile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


class Handled:
    """The work of a worker: the number of events, the first one's time, and the age in ms of each of the first."""

    AGES = 5_000

    def __init__(self) -> None:
        self.count = 0
        self.first = 0.0
        self.cpu = 0.0
        self.ages: list[float] = []

    def take(self, order: Mapping[str, Any]) -> None:
        """Handle an event, which takes no time."""
        if not self.count:
            self.first, self.cpu = time.time(), cpu()
        self.count += 1
        if self.count <= self.AGES:
            self.ages.append(1000 * (time.time() - order["sent"]))

    def report(self, ages: bool) -> dict[str, object]:
        return {
            "handled": self.count,
            "first": self.first,
            "cpu": cpu() - self.cpu if self.count else 0.0,
            **({"ages": self.ages} if ages else {}),
        }


class Peer(ABC):
    """The abilities of a peer. `packages` are the distributions whose versions are reported."""

    packages: Sequence[str] = ()
    loop = "uvloop"
    chunk = 5_000

    def __init__(self, dsn: str, redis: str) -> None:
        self.dsn = dsn
        self.redis = redis

    @abstractmethod
    async def set_up(self, listeners: int, purpose: str) -> None:
        """Create what the peer needs in an empty database; `purpose` is the workload, such as W5."""

    @abstractmethod
    async def open(self, clients: int) -> None:
        """Connect as a client, with this number of connections."""

    @abstractmethod
    async def transact(self, kind: str, client: int, number: int) -> None:
        """A transaction that writes a row of business, and with it: nothing (`plain`), a row of an outbox by hand
        (`hand`), or an event of the peer (`publish`)."""

    @abstractmethod
    async def bulk(self, orders: Sequence[Payload], listeners: int) -> None:
        """Publish these in one transaction, to each listener, by the fastest way there is."""

    async def bare_bulk(self, orders: Sequence[Payload]) -> None:
        """Store these in one transaction in an outbox by hand, if there is a baseline for this driver."""
        raise NotImplementedError

    @abstractmethod
    async def work(self, listeners: int, handled: Handled, purpose: str) -> None:
        """Handle events until cancelled; `purpose` is the workload."""

    @abstractmethod
    async def left(self) -> bool:
        """Whether anything is not acknowledged yet. Only called when all of it was handled."""

    async def call(self) -> None:
        """Call a procedure of the worker, and check its result."""
        raise NotImplementedError


class _Program:
    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.handled = Handled()
        self.working: asyncio.Task[None] | None = None
        self.clients = 1

    async def versions(self) -> dict[str, object]:
        return {"versions": {name: version(name) for name in self.peer.packages}}

    async def set_up(self, listeners: int, purpose: str) -> dict[str, object]:
        await self.peer.set_up(listeners, purpose)
        return {}

    async def open(self, clients: int) -> dict[str, object]:
        self.clients = clients
        await self.peer.open(clients)
        return {}

    async def transactions(self, kind: str, clients: int, seconds: float) -> dict[str, object]:
        """As many as there is time for, by all clients at once."""
        times: list[float] = []
        began, used = time.perf_counter(), cpu()
        ending = began + seconds

        async def go_on(client: int) -> None:
            number = 0
            while (start := time.perf_counter()) < ending:
                await self.peer.transact(kind, client, number)
                times.append(1000 * (time.perf_counter() - start))
                number += 1

        await asyncio.gather(*map(go_on, range(clients)))
        return {"count": len(times), **_taken(began, used), "p50": quantile(times, 0.5), "p99": quantile(times, 0.99)}

    async def bulk(self, kind: str, count: int, listeners: int) -> dict[str, object]:
        taken, used = 0.0, 0.0
        for first in range(0, count, self.peer.chunk):
            orders = [payload(number) for number in range(first, min(count, first + self.peer.chunk))]
            began, before = time.perf_counter(), cpu()
            if kind == "publish":
                await self.peer.bulk(orders, listeners)
            else:
                try:
                    await self.peer.bare_bulk(orders)
                except NotImplementedError:
                    return {"count": 0, "seconds": 0.0, "cpu": 0.0}
            taken, used = taken + time.perf_counter() - began, used + cpu() - before
        return {"count": count, "seconds": taken, "cpu": used}

    async def paced(self, count: int) -> dict[str, object]:
        """One event at a time, each 10 to 30 ms after the one before."""
        for number in range(count):
            await asyncio.sleep(random.uniform(0.01, 0.03))
            await self.peer.transact("publish", 0, number)
        return {}

    async def work(self, listeners: int, purpose: str) -> dict[str, object]:
        self.working = asyncio.ensure_future(self.peer.work(listeners, self.handled, purpose))
        await asyncio.sleep(0)
        return {}

    async def report(self, ages: bool = False) -> dict[str, object]:
        if self.working and self.working.done():
            self.working.result()
            raise RuntimeError("the worker has ended")
        return self.handled.report(ages)

    async def left(self) -> dict[str, object]:
        return {"left": await self.peer.left()}

    async def calls(self, count: int, callers: int) -> dict[str, object]:
        times: list[float] = []
        began, used = time.perf_counter(), cpu()

        async def go_on() -> None:
            for _ in range(count // callers):
                start = time.perf_counter()
                await self.peer.call()
                times.append(1000 * (time.perf_counter() - start))

        await asyncio.gather(*(go_on() for _ in range(callers)))
        return {"count": len(times), **_taken(began, used), "p50": quantile(times, 0.5), "p99": quantile(times, 0.99)}


def _taken(began: float, used: float) -> dict[str, object]:
    return {"seconds": time.perf_counter() - began, "cpu": cpu() - used}


async def _obey(peer: Peer, answers: TextIO) -> None:
    """Do what the lines of stdin say, one after the other, until stdin ends."""
    program = _Program(peer)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        command = json.loads(line)
        try:
            answer = await getattr(program, command.pop("do"))(**command)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:2000]}
        print(json.dumps(answer), file=answers, flush=True)
    if program.working:
        program.working.cancel()
        with suppress(BaseException):
            await asyncio.wait_for(program.working, 1)


def serve(make: Callable[[str, str], Peer]) -> None:
    """Run a peer's program: the arguments are the DSN of PostgreSQL and the URL of Redis."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # some peers log to stdout
    peer = make(sys.argv[1], sys.argv[2])
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if peer.loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_obey(peer, answers))
