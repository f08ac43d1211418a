"""Measures imports of pgbus and starts of its command line, compared with Python and asyncpg alone.

CPU is what the machine had to do; wall time is what a person waits for, and depends on what else runs.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass

from benchmarks.figures import Figure

RUNS = 7
PROGRAMS = {
    "python alone": "pass",
    "import asyncpg": "import asyncpg",
    "import pgbus": "import pgbus",
    "pgbus.create (all of the bus)": "import pgbus; pgbus.create",
    "a bus, made": "import pgbus; pgbus.create('postgresql://localhost/x')",
    "pgbus --version": "import sys; sys.argv = ['pgbus', '--version']; from pgbus.cli import main; main()",
    "pgbus --help": "import sys; sys.argv = ['pgbus', '--help']; from pgbus.cli import main; main()",
}


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a new interpreter that runs a program: the least of several runs."""

    cpu: float
    wall: float


def cost(program: str) -> Cost:
    runs = [_run(program) for _ in range(RUNS)]
    return Cost(cpu=min(one.cpu for one in runs), wall=min(one.wall for one in runs))


def _run(program: str) -> Cost:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(cpu=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall=wall)


async def main(dsn: str) -> list[Figure]:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    costs = {name: cost(program) for name, program in PROGRAMS.items()}
    alone = costs["python alone"].cpu
    driver = costs["import asyncpg"].cpu - alone
    return [
        Figure(
            "",
            f"{name}: CPU of a new process, the least of {RUNS}",
            [one.cpu * 1000],
            "ms",
            digits=0,
            note=f"{one.wall * 1000:.0f} ms of wall time; less Python's own {(one.cpu - alone) * 1000:.0f} ms, "
            f"{(one.cpu - alone) / driver:.1f} times asyncpg",
        )
        for name, one in costs.items()
    ]
