"""Measures deliveries by the harness of the race: pgbus, the queue by hand, and PGMQ where it installs, in turn.

What each workload does is said in `benchmarks.race.workloads`; `make race` runs more peers and workloads.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from benchmarks.figures import Figure, Goal, at_least, at_most
from benchmarks.race.environments import prepare
from benchmarks.race.peers_table import PEERS, Workload
from benchmarks.race.race import Plan, open_track, race
from benchmarks.race.results import Results
from benchmarks.race.workloads import fan_out

EVENTS = int(os.environ.get("PGBUS_BENCH_EVENTS", "50000"))
PASSES = int(os.environ.get("PGBUS_BENCH_PASSES", "3"))
LISTENERS = 10
BY_HAND = "LISTEN and DELETE by hand"


async def main(dsn: str) -> list[Figure]:
    plan = Plan(["pgbus", "hand", "pgmq"], ["W3", "W4", "W5", "W6", "W7"], EVENTS, PASSES, 60)
    results = await race(dsn, plan)
    ten = [await _ten_listeners(dsn, plan) for _ in range(PASSES)]
    return figures(results, ten)


async def _ten_listeners(dsn: str, plan: Plan) -> dict[str, float]:
    entry = PEERS["pgbus"]
    async with open_track(dsn, entry, await prepare(entry), plan) as track:
        return await fan_out(track, listeners=LISTENERS)


def figures(results: Results, ten: Sequence[dict[str, float]]) -> list[Figure]:
    """Those of the plan's table, from the results of a race and of runs with ten listeners."""

    def own(workload: Workload, key: str, peer: str = "pgbus") -> list[float]:
        return [one[key] for one in results.figures.get(workload, {}).get(peer, [])]

    def per_pass(workload: Workload, key: str, peer: str, *, by: str = "pgbus") -> list[float]:
        pairs = zip(own(workload, key, by), own(workload, key, peer), strict=False)
        return [one / other for one, other in pairs]

    def cpu(workload: Workload, what: str, goal: Goal | None) -> Figure:
        worker, server = (own(workload, key) for key in ("worker", "server"))
        split = [f"worker {one:.1f}, server {other:.1f}" for one, other in zip(worker, server, strict=True)]
        return Figure(workload, what, own(workload, "cpu"), "us", digits=1, goal=goal, note="; ".join(split[:1]))

    drained = f"handling {EVENTS:,} stored events with history, one process"
    processes = [two / one for two, one in zip(own("W4", "cpu"), own("W3", "cpu"), strict=False)]
    wal = [(three * 3 - one) / 2 for three, one in zip(own("W6", "wal"), own("W7", "all"), strict=False)]
    return [
        cpu("W3", f"{drained}: CPU per event", at_most(22)),
        Figure("W3", drained, own("W3", "events/s"), "events/s", digits=0),
        Figure(
            "W3", "the same, rate", per_pass("W3", "events/s", "pgmq"), baseline="PGMQ without history",
            goal=at_least(3),
        ),
        Figure("W4", "two processes: CPU per event", processes, baseline="one process", goal=at_most(1.1)),
        Figure("W5", "idle, p50", per_pass("W5", "p50", "hand"), baseline=BY_HAND, goal=at_most(1.2)),
        Figure("W5", "idle, p50", own("W5", "p50"), "ms"),
        Figure("W5", "idle, p99", own("W5", "p99"), "ms"),
        cpu("W6", "three listeners: CPU per delivery", at_most(20)),
        Figure("W6", "ten listeners: CPU per delivery", [one["cpu"] for one in ten], "us", digits=1, goal=at_most(20)),
        Figure("W7", "WAL per event, published and handled", own("W7", "all"), "bytes", digits=0, goal=at_most(520)),
        Figure("W7", "WAL of a further listener per event", wal, "bytes", digits=0, goal=at_most(30)),
        Figure("W7", "dead row versions per event", own("W7", "dead"), digits=3, goal=at_most(0.01)),
    ]  # fmt: skip
