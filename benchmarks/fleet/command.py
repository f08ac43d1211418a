"""`python -m benchmarks fleet`: fleets that grow, and where each of them ends.

`--calibrate` first measures the costs on this machine's PostgreSQL and writes them to `costs.json`; `--validate`
compares the model with a real run of two workers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.fleet.calibrate import calibrate
from benchmarks.fleet.costs import Costs, load, save
from benchmarks.fleet.model import NOTIFICATION_BYTES, Fleet, Outcome, Server, leader_capacity, simulate
from benchmarks.fleet.validate import RATES, validate
from benchmarks.support import server

SIZES = [(10, 1), (20, 2), (50, 5), (100, 10), (200, 20), (500, 50)]
EVENTS_PER_WORKER = 10
LOWEST, HIGHEST = 50.0, 200_000.0
STEPS = 4
HEADINGS = (
    "workers", "services", "events/s", "leader busy", "cores busy", "of it notifications", "sessions",
    "notifications/s", "queue, KB", "full after, h", "p50, ms", "p99, ms", "first limit", "ends at events/s", "by",
    "leader at most",
)  # fmt: skip


def main(options: Sequence[str]) -> None:
    if unknown := set(options) - {"--calibrate", "--validate"}:
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; there are --calibrate and --validate")
    if "--calibrate" in options:
        with server() as dsn:
            save(asyncio.run(calibrate(dsn)))
    costs = load()
    if "--validate" in options:
        with server() as dsn:
            for rate in RATES:
                print(asyncio.run(validate(dsn, costs, rate)))
        return
    print(report(costs, Server()))


def report(costs: Costs, of: Server) -> str:
    lines = [
        f"Simulated with the costs of `benchmarks/fleet/costs.json`. {costs.measured}",
        f"{of.cores} cores, and {of.connections:,} connections for at most {most_workers(costs, of):,} workers.",
        "Each event is heard by three services at most. `full after`: once a session stops reading notifications.\n",
        _line(HEADINGS),
        _line(["---"] * len(HEADINGS)),
    ]
    lines += [_line(_cells(costs, of, *size)) for size in SIZES]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(costs: Costs, of: Server, workers: int, services: int) -> list[str]:
    fleet = Fleet(workers=workers, services=services, rate=workers * EVENTS_PER_WORKER)
    found = simulate(costs, fleet, of)
    rate, limit = find_end(costs, fleet, replace(of, connections=found.connections))
    full_after = of.queue_bytes / (found.notifications * NOTIFICATION_BYTES) / 3600
    told = found.cpu.get("notifications", 0.0) / found.busy
    return [
        f"{workers}", f"{services}", f"{fleet.rate:,.0f}", f"{found.leader:.2f}", f"{found.cores:.2f}", f"{told:.2f}",
        f"{found.connections:,}", f"{found.notifications:,.0f}", f"{found.queue / 1000:,.1f}", f"{full_after:,.0f}",
        f"{1000 * found.p50:,.1f}", f"{1000 * found.p99:,.1f}", found.limit or "none", f"{rate:,.0f}", limit or "none",
        f"{leader_capacity(costs, workers=workers, services=services):,.0f}",
    ]  # fmt: skip


def most_workers(costs: Costs, of: Server) -> int:
    return int((of.connections - 1) // costs.worker_sessions)


def find_end(costs: Costs, fleet: Fleet, of: Server) -> tuple[float, str]:
    """The highest rate at which the fleet meets no limit, within a tenth or so, and the limit that is met above it."""

    def met(rate: float) -> Outcome:
        return simulate(costs, replace(fleet, rate=rate, seconds=1.0), of)

    low, limit = 0.0, ""
    high = LOWEST
    while high < HIGHEST and not (limit := met(high).limit):
        low, high = high, high * 2
    if not limit:
        return low, ""
    for _ in range(STEPS if low else 0):
        middle = (low + high) / 2
        if reached := met(middle).limit:
            high, limit = middle, reached
        else:
            low = middle
    return low, limit
