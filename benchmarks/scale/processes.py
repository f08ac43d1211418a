"""Curves over processes, by the programs of the race: publishers, and workers."""

from __future__ import annotations

from contextlib import AsyncExitStack

from benchmarks.race.environments import prepare
from benchmarks.race.peers_table import PEERS
from benchmarks.race.race import Plan, open_track
from benchmarks.race.workloads import drained_by
from benchmarks.scale.curve import Curve, Trace
from benchmarks.scale.sizes import events, sizes

STRETCH = 1.0  # seconds of publishing
KINDS = {"plain": "no event", "hand": "outbox by hand", "publish": "pgbus"}


def _plan(count: int) -> Plan:
    return Plan(["pgbus"], [], count, 1, 60)


async def publishers(dsn: str) -> Curve:
    """From 1 to 64 connections of one process, each in transactions of one small row and one event."""
    entry = PEERS["pgbus"]
    numbers = sizes("publishers")
    taken: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    async with AsyncExitStack() as stack:
        track = await stack.enter_async_context(open_track(dsn, entry, await prepare(entry), _plan(1_000)))
        client = await stack.enter_async_context(track.client("W1", connections=max(numbers)))
        await client.ask("transactions", kind="publish", clients=1, seconds=0.2)
        for number in numbers:
            for kind, points in taken.items():
                before = await track.meter.read()
                done = await client.ask("transactions", kind=kind, clients=number, seconds=STRETCH)
                spent = (await track.meter.read()).since(before)
                points.append((number, 1e6 * (done["cpu"] + spent.cpu) / done["count"]))
    return Curve(
        "publishers",
        "Publishers",
        "publishers",
        "us of CPU per transaction",
        "Connections of one process, each in transactions of one small row and one event, for a second; CPU of client "
        "and server.",
        [Trace(KINDS[kind], points) for kind, points in taken.items()],
    )


async def workers(dsn: str) -> Curve:
    """From 1 to 8 processes that share one listener and two cores."""
    entry = PEERS["pgbus"]
    count = events(30_000)
    taken: dict[str, list[tuple[float, float]]] = {"workers and server": [], "server": []}
    for number in sizes("workers"):
        async with open_track(dsn, entry, await prepare(entry), _plan(count)) as track:
            drained = await drained_by(track, processes=number)
        taken["workers and server"].append((number, drained["cpu"]))
        taken["server"].append((number, drained["server"]))
    return Curve(
        "workers",
        "Worker processes",
        "processes",
        "us of CPU per event",
        f"Processes that share one listener, and the cores of the machine, handle {count:,} stored events.",
        [Trace(name, points) for name, points in taken.items()],
        digits=1,
    )
