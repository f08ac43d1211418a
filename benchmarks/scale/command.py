"""Run all curves, or those that are named, and write `benchmarks/SCALE.md` and the plots."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence

from benchmarks.race.environments import ROOT
from benchmarks.scale import events, log, processes, sizes
from benchmarks.scale.curve import Curve
from benchmarks.support import machine, server

PAGE = ROOT / "benchmarks" / "SCALE.md"
PLOTS = ROOT / "docs" / "explanation" / "plots"

REPEAT = """## How to repeat it

    .venv/bin/python -m benchmarks scale

`PGBUS_SCALE=full` takes the full sizes, which run for a quarter of an hour; `PGBUS_SCALE_LOG=10000,100000` those of one
curve; names after `scale` choose curves, and print them only."""

Found = tuple[list[Curve], dict[str, str]]


def _one(measure: Callable[[str], Awaitable[Curve]]) -> Callable[[str], Awaitable[Found]]:
    async def run(dsn: str) -> Found:
        return [await measure(dsn)], {}

    return run


async def _backlog(dsn: str) -> Found:
    return await events.backlog(dsn), {}


async def _log(dsn: str) -> Found:
    curve, plans = await log.log(dsn)
    return [curve], plans


CURVES: dict[str, Callable[[str], Awaitable[Found]]] = {
    "publishers": _one(processes.publishers),
    "workers": _one(processes.workers),
    "listeners": _one(events.listeners),
    "backlog": _backlog,
    "payload": _one(events.payload),
    "topics": _one(events.topics),
    "log": _log,
}


def main(names: Sequence[str]) -> None:
    """Measure, print each table, and write the page and the plots if all curves were measured."""
    if unknown := [name for name in names if name not in CURVES]:
        raise SystemExit(f"unknown: {', '.join(unknown)}; there are {', '.join(CURVES)}")
    curves: list[Curve] = []
    plans: dict[str, str] = {}
    with server() as dsn:
        for name in names or CURVES:
            print(f"{name} ...", file=sys.stderr, flush=True)
            found, more = asyncio.run(_run(name, dsn))
            curves += found
            plans |= more
            for curve in found:
                print(f"\n{curve.title}\n{curve.table()}", flush=True)
        form = "the full sizes" if os.environ.get("PGBUS_SCALE") == "full" else "the short sizes"
        heading = machine(form, dsn)
    if sizes.events(1_000) < 1_000:
        heading += "\n\n**A small run: it shows that everything works. Do not draw conclusions from its figures.**"
    if names:
        return
    PAGE.write_text(page(heading, curves, plans), encoding="utf-8")
    PLOTS.mkdir(exist_ok=True)
    for curve in curves:
        (PLOTS / f"scale-{curve.slug}.svg").write_text(curve.plot(), encoding="utf-8")


async def _run(name: str, dsn: str) -> Found:
    return await CURVES[name](dsn)


def page(heading: str, curves: Sequence[Curve], plans: dict[str, str]) -> str:
    """The page of results, with the plans of questions that grow faster than they should."""
    parts = [f"# How costs grow\n\n{heading}"]
    for curve in curves:
        parts.append(f"## {curve.title}\n\n{curve.about}\n\n{curve.table()}")
        parts += [
            f'The plan of "{one.name}":\n\n```\n{plans[one.name]}\n```'
            for one in curve.traces
            if one.steeper and one.name in plans
        ]
    parts.append(REPEAT)
    return "\n\n".join(parts) + "\n"
