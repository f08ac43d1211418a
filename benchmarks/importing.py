"""What it costs to import pgbus and to ask its command line about itself, in seconds of CPU, and Python's own share."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

RUNS = 7
PROGRAMS = {
    "python alone": "pass",
    "import asyncpg": "import asyncpg",
    "import pgbus": "import pgbus",
    "pgbus.create (all of the bus)": "import pgbus; pgbus.create",
    "pgbus --version": "import sys; sys.argv = ['pgbus', '--version']; from pgbus.cli import main; main()",
    "pgbus --help": "import sys; sys.argv = ['pgbus', '--help']; from pgbus.cli import main; main()",
}


def cpu_seconds(program: str) -> float:
    """User and system time of a new interpreter that runs the program; the least of several runs."""
    found = []
    for _ in range(RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


async def main(dsn: str) -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    costs = {name: cpu_seconds(program) for name, program in PROGRAMS.items()}
    alone = costs["python alone"]
    driver = costs["import asyncpg"] - alone
    print(f"import, of {RUNS} runs the least CPU: python alone {alone * 1000:.0f} ms")
    for name, cost in costs.items():
        if name != "python alone":
            print(f"  {name:<30} {(cost - alone) * 1000:4.0f} ms more, {(cost - alone) / driver:.1f} times asyncpg")
