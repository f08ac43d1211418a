"""Run the benchmarks named on the command line, or all of them, in the event loop that PGBUS_BENCH_LOOP names.

`scale`, which takes minutes, runs only when it is named; what follows it are names of its curves. `fleet`
simulates; what follows it are its options.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Coroutine
from typing import cast

from benchmarks import (
    bulk,
    calls,
    causes,
    deliveries,
    held,
    history,
    idle,
    importing,
    looks,
    memory,
    paced,
    publishing,
    relay,
    rpc,
    settling,
    tracing,
    transactions,
    viewers,
)
from benchmarks.figures import Figure, table
from benchmarks.fleet.command import main as fleet
from benchmarks.scale.command import main as scale
from benchmarks.support import machine, server
from pgbus.cli.loops import Loop, open_runner

BENCHMARKS: dict[str, Callable[[str], Coroutine[None, None, list[Figure]]]] = {
    "transactions": transactions.main,
    "bulk": bulk.main,
    "deliveries": deliveries.main,
    "paced": paced.main,
    "held": held.main,
    "settling": settling.main,
    "history": history.main,
    "idle": idle.main,
    "calls": calls.main,
    "rpc": rpc.main,
    "publishing": publishing.main,
    "causes": causes.main,
    "tracing": tracing.main,
    "looks": looks.main,
    "memory": memory.main,
    "importing": importing.main,
    "relay": relay.main,
    "viewers": viewers.main,
}


def main() -> None:
    if sys.argv[1:2] == ["scale"]:
        scale(sys.argv[2:])
        return
    if sys.argv[1:2] == ["fleet"]:
        fleet(sys.argv[2:])
        return
    names = sys.argv[1:] or list(BENCHMARKS)
    if unknown := [name for name in names if name not in BENCHMARKS]:
        raise SystemExit(f"unknown: {', '.join(unknown)}; there are scale, fleet, {', '.join(BENCHMARKS)}")
    logging.basicConfig(level=logging.ERROR)
    loop = cast("Loop", os.environ.get("PGBUS_BENCH_LOOP", "asyncio"))
    figures: list[Figure] = []
    with server() as dsn:
        for name in names:
            print(f"{name} ...", file=sys.stderr, flush=True)
            with open_runner(loop) as runner:
                found = runner.run(BENCHMARKS[name](dsn))
            figures += found
            for one in found:
                print(f"  {' '.join(filter(None, one.cells()))}", file=sys.stderr, flush=True)
        print(machine(f"event loop {loop}", dsn))
    print(table(figures))


main()
