"""Run the benchmarks named on the command line, or all of them, in the event loop that PGBUS_BENCH_LOOP names."""

from __future__ import annotations

import logging
import os
import sys
from typing import cast

from benchmarks import (
    calls,
    drain,
    held,
    importing,
    latency,
    looks,
    memory,
    paced,
    publishing,
    rpc,
    settling,
    transactions,
)
from benchmarks.support import server
from pgbus.cli.loops import Loop, open_runner

BENCHMARKS = {
    "publishing": publishing.main,
    "transactions": transactions.main,
    "latency": latency.main,
    "drain": drain.main,
    "looks": looks.main,
    "paced": paced.main,
    "held": held.main,
    "settling": settling.main,
    "memory": memory.main,
    "rpc": rpc.main,
    "calls": calls.main,
    "importing": importing.main,
}


def main() -> None:
    names = sys.argv[1:] or list(BENCHMARKS)
    if unknown := [name for name in names if name not in BENCHMARKS]:
        raise SystemExit(f"unknown: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    logging.basicConfig(level=logging.ERROR)
    loop = cast("Loop", os.environ.get("PGBUS_BENCH_LOOP", "asyncio"))
    with server() as dsn:
        for name in names:
            with open_runner(loop) as runner:
                runner.run(BENCHMARKS[name](dsn))


main()
