"""Run the benchmarks named on the command line, or all of them."""

from __future__ import annotations

import asyncio
import logging
import sys

from benchmarks import drain, importing, latency, memory, publishing, rpc
from benchmarks.support import server

BENCHMARKS = {
    "publishing": publishing.main,
    "latency": latency.main,
    "drain": drain.main,
    "memory": memory.main,
    "rpc": rpc.main,
    "importing": importing.main,
}


def main() -> None:
    names = sys.argv[1:] or list(BENCHMARKS)
    if unknown := [name for name in names if name not in BENCHMARKS]:
        raise SystemExit(f"unknown: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    logging.basicConfig(level=logging.ERROR)
    with server() as dsn:
        for name in names:
            asyncio.run(BENCHMARKS[name](dsn))


main()
