"""The workloads: what the programs of a peer are asked to do, and the figures that follow. No peer is known here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from benchmarks.race.meter import Meter
from benchmarks.race.peers_table import Workload
from benchmarks.race.process import PeerError, PeerProcess
from benchmarks.support import median, quantile

Figures = dict[str, float]

CLIENTS = (1, 8, 32)
PUBLISHERS = (8, 32)
ROUNDS = 4  # stretches of each kind in turn, so that all kinds meet the same noise
POLL = 0.005
PATIENCE = 90.0  # seconds until all events of a run are handled


@dataclass(frozen=True)
class Track:
    """One run of one peer on an empty database: starts its programs, and reads what the servers spend."""

    start: Callable[[], AbstractAsyncContextManager[PeerProcess]]
    meter: Meter
    events: int
    stretch: float  # seconds of a stretch of transactions
    latencies: int

    @asynccontextmanager
    async def client(self, purpose: str, *, listeners: int = 1, connections: int = 1) -> AsyncIterator[PeerProcess]:
        async with self.start() as client:
            await client.ask("set_up", listeners=listeners, purpose=purpose)
            await client.ask("open", clients=connections)
            yield client


async def transactions(track: Track) -> dict[Workload, Figures]:
    """W1: of the rate of the same transaction with a row in an outbox by hand."""
    figures: Figures = {}
    async with track.client("W1", connections=max(CLIENTS)) as client:
        for clients in CLIENTS:
            taken = await _stretches(track, client, ("plain", "hand", "publish"), clients)
            rate = {kind: sum(one.rate for one in many) for kind, many in taken.items()}
            publish = taken["publish"]
            figures |= {
                f"{clients} of hand": rate["publish"] / rate["hand"],
                f"{clients} of plain": rate["publish"] / rate["plain"],
                f"{clients} tx/s": median([one.rate for one in publish]),
                f"{clients} p50": median([one.p50 for one in publish]),
                f"{clients} cpu": 1e6 * sum(one.cpu for one in publish) / sum(one.count for one in publish),
            }
    return {"W1": figures}


async def drain(track: Track) -> dict[Workload, Figures]:
    """W2, W3 and W7: publish in bulk, then handle it all by one process."""
    async with track.client("W3") as client:
        bare = await client.ask("bulk", kind="hand", count=track.events, listeners=1)
        published = await _publish(track, client, listeners=1)
        drained = await _drain(track, client, listeners=1, processes=1, purpose="W3")
    rate = published["events/s"]
    versions = await track.meter.dead_versions()
    return {
        "W2": {
            "events/s": rate,
            "cpu": published["cpu"],
            **({"of bare": rate * bare["seconds"] / bare["count"]} if bare["count"] else {}),
        },
        "W3": {key: drained[key] for key in ("events/s", "cpu", "worker", "server")},
        "W7": {
            "publish": published["wal"],
            "handle": drained["wal"],
            "all": published["wal"] + drained["wal"],
            "dead": versions / track.events,
        },
    }


async def two_processes(track: Track) -> dict[Workload, Figures]:
    """W4: the same by two processes."""
    return {"W4": await drained_by(track, processes=2)}


async def drained_by(track: Track, *, processes: int) -> Figures:
    """The rate and the CPU of this number of processes, which share one listener."""
    async with track.client("W4") as client:
        await _publish(track, client, listeners=1)
        drained = await _drain(track, client, listeners=1, processes=processes, purpose="W4")
    return {key: drained[key] for key in ("events/s", "cpu", "worker", "server")}


async def three_listeners(track: Track) -> dict[Workload, Figures]:
    """W6: three listeners in one process, each of which gets every event; figures per delivery."""
    return {"W6": await fan_out(track, listeners=3)}


async def fan_out(track: Track, *, listeners: int) -> Figures:
    async with track.client("W6", listeners=listeners) as client:
        published = await _publish(track, client, listeners=listeners)
        drained = await _drain(track, client, listeners=listeners, processes=1, purpose="W6")
    return {
        "deliveries/s": listeners * drained["events/s"],
        "published/s": published["events/s"],
        **{key: drained[key] / listeners for key in ("cpu", "worker", "server")},
        "wal": (published["wal"] + drained["wal"]) / listeners,
    }


async def idle(track: Track) -> dict[Workload, Figures]:
    """W5: from before the transaction to the handler, one event at a time, from process to process."""
    async with track.client("W5") as client, track.start() as worker:
        await worker.ask("work", listeners=1, purpose="W5")
        await client.ask("paced", count=20)
        await _until_handled([worker], 20)
        await client.ask("paced", count=track.latencies)
        await _until_handled([worker], 20 + track.latencies)
        await _until_settled(client)
        ages = (await worker.ask("report", ages=True))["ages"][20:]
    return {"W5": {"p50": median(ages), "p99": quantile(ages, 0.99)}}


async def calls(track: Track) -> dict[Workload, Figures]:
    """W8: a call of one caller after the other, and 50 at once; CPU of caller, server and servers."""
    async with track.client("W8") as client, track.start() as worker:
        await worker.ask("work", listeners=1, purpose="W8")
        await asyncio.sleep(1)
        await client.ask("calls", count=100, callers=1)
        one = await client.ask("calls", count=track.latencies, callers=1)
        before = await track.meter.read()
        many = await client.ask("calls", count=max(1_000, track.events // 10), callers=50)
        spent = (await track.meter.read()).since(before)
    return {
        "W8": {
            "p50": one["p50"],
            "p99": one["p99"],
            "calls/s": many["count"] / many["seconds"],
            "p50 at 50": many["p50"],
            "cpu": 1e6 * (spent.cpu + many["cpu"]) / many["count"],
        }
    }


async def with_a_worker(track: Track) -> dict[Workload, Figures]:
    """W10: publishers with a worker on the same cores, of their rate without publishing."""
    figures: Figures = {}
    async with track.client("W10", connections=max(PUBLISHERS)) as client, track.start() as worker:
        await worker.ask("work", listeners=1, purpose="W10")
        published = 0
        for publishers in PUBLISHERS:
            rates: dict[str, list[float]] = {"plain": [], "publish": []}
            for _ in range(ROUNDS):
                for kind, many in rates.items():
                    done = await client.ask("transactions", kind=kind, clients=publishers, seconds=track.stretch)
                    many.append(done["count"] / done["seconds"])
                published += done["count"]
                await _until_handled([worker], published)
            figures |= {
                f"{publishers} of plain": sum(rates["publish"]) / sum(rates["plain"]),
                f"{publishers} tx/s": median(rates["publish"]),
            }
        await _until_settled(client)
    return {"W10": figures}


@dataclass(frozen=True)
class _Stretch:
    count: int
    rate: float
    p50: float
    cpu: float


async def _stretches(
    track: Track, client: PeerProcess, kinds: tuple[str, ...], clients: int
) -> Mapping[str, list[_Stretch]]:
    """Each kind in turn, every other round in the opposite order; the first round of all warms up."""
    taken: dict[str, list[_Stretch]] = {kind: [] for kind in kinds}
    for number in range(ROUNDS + 1):
        for kind in kinds if number % 2 else kinds[::-1]:
            before = await track.meter.read()
            done = await client.ask("transactions", kind=kind, clients=clients, seconds=track.stretch / len(kinds))
            spent = (await track.meter.read()).since(before)
            if number:
                taken[kind].append(
                    _Stretch(done["count"], done["count"] / done["seconds"], done["p50"], done["cpu"] + spent.cpu)
                )
    return taken


async def _publish(track: Track, client: PeerProcess, *, listeners: int) -> Figures:
    before = await track.meter.read()
    done = await client.ask("bulk", kind="publish", count=track.events, listeners=listeners)
    spent = (await track.meter.read()).since(before)
    return {
        "events/s": done["count"] / done["seconds"],
        "cpu": 1e6 * (done["cpu"] + spent.cpu) / track.events,
        "wal": spent.wal / track.events,
    }


async def _drain(track: Track, client: PeerProcess, *, listeners: int, processes: int, purpose: Workload) -> Figures:
    """From the first handler's start until everything is acknowledged, and that every event was handled once."""
    expected = track.events * listeners
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(track.start()) for _ in range(processes)]
        for worker in workers:  # started and imported before any of them works
            await worker.ask("report")
        before = await track.meter.read()
        await asyncio.gather(*(worker.ask("work", listeners=listeners, purpose=purpose) for worker in workers))
        await _until_handled(workers, 1)
        at_first = await track.meter.read()  # to connect and register costs the server as much as thousands of events
        await _until_handled(workers, expected)
        await _until_settled(client)
        ended = time.time()
        reports = await asyncio.gather(*(worker.ask("report") for worker in workers))
        last = await track.meter.read()
    handled = sum(report["handled"] for report in reports)
    if handled != expected:
        raise PeerError(f"{handled:,} handled of {expected:,}")
    first = min(report["first"] for report in reports if report["handled"])
    worker_cpu = sum(report["cpu"] for report in reports)
    figures = {"worker": 1e6 * worker_cpu / track.events, "server": 1e6 * last.since(at_first).cpu / track.events}
    return {
        "events/s": track.events / (ended - first),
        "cpu": figures["worker"] + figures["server"],
        "wal": last.since(before).wal / track.events,
        **figures,
    }


async def _until_handled(workers: list[PeerProcess], expected: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        reports = await asyncio.gather(*(worker.ask("report") for worker in workers))
        handled = sum(report["handled"] for report in reports)
        if handled >= expected:
            return
        if time.monotonic() > deadline:
            raise PeerError(f"{handled:,} handled of {expected:,} in {PATIENCE:.0f} s")
        await asyncio.sleep(POLL)


async def _until_settled(client: PeerProcess) -> None:
    deadline = time.monotonic() + PATIENCE
    while (await client.ask("left"))["left"]:
        if time.monotonic() > deadline:
            raise PeerError(f"handled, but not acknowledged in {PATIENCE:.0f} s")
        await asyncio.sleep(POLL)


Run = Callable[[Track], Awaitable[dict[Workload, Figures]]]
RUNS: Mapping[tuple[Workload, ...], Run] = {
    ("W1",): transactions,
    ("W2", "W3", "W7"): drain,
    ("W4",): two_processes,
    ("W5",): idle,
    ("W6",): three_listeners,
    ("W8",): calls,
    ("W10",): with_a_worker,
}
