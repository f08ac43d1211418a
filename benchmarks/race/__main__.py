"""Run the race: `python -m benchmarks.race --peers pgbus,pgmq --workloads W3,W4 --events 50000 --passes 3`."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path

from benchmarks.race.environments import ROOT
from benchmarks.race.peers_table import PEERS, WORKLOADS
from benchmarks.race.race import Plan, race
from benchmarks.race.results import markdown, plots
from benchmarks.support import machine, server

RESULTS = ROOT / "benchmarks" / "RESULTS.md"
PLOTS = ROOT / "docs" / "explanation" / "plots"


def plan(arguments: Sequence[str] | None = None) -> tuple[Plan, bool]:
    """The plan of the command line, and whether its results are written to the files of the project."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.race", description=__doc__)
    parser.add_argument("--peers", default="", help="names, separated by commas; all if empty")
    parser.add_argument("--workloads", default="", help=f"of {', '.join(WORKLOADS)}; all if empty")
    parser.add_argument("--events", type=int, default=50_000, help="events of a run; slow peers get a part of them")
    parser.add_argument("--passes", type=int, default=3, help="times that every peer runs, in turn")
    parser.add_argument("--minutes", type=float, default=11.5, help="no pass begins that would end later")
    parser.add_argument("--print", action="store_true", help="print the results, and leave the files as they are")
    given = parser.parse_args(arguments)
    peers = [one for one in given.peers.split(",") if one] or list(PEERS)
    workloads = [one for one in given.workloads.split(",") if one] or list(WORKLOADS)
    if unknown := [one for one in peers if one not in PEERS]:
        parser.error(f"unknown peers: {', '.join(unknown)}; there are {', '.join(PEERS)}")
    if unknown := [one for one in workloads if one not in WORKLOADS]:
        parser.error(f"unknown workloads: {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    return Plan(peers, workloads, given.events, given.passes, given.minutes), not given.print


def main() -> None:
    chosen, written = plan()
    with server() as dsn:
        results = asyncio.run(race(dsn, chosen))
        page = markdown(results, heading=machine(chosen.told(), dsn) + chosen.warning(), how=chosen.how())
    if not written:
        print(page)
        return
    RESULTS.write_text(page, encoding="utf-8")
    PLOTS.mkdir(exist_ok=True)
    for name, drawing in plots(results).items():
        (PLOTS / name).write_text(drawing, encoding="utf-8")
    print(f"written: {_named(RESULTS)}, {_named(PLOTS)}/race-*.svg")


def _named(path: Path) -> str:
    return str(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
