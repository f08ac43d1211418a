"""`python -m tests.chaos`: break everything that a bus stands on, and say what came of it.

Exits with 1 if a law was broken, and with 2 if only a goal was not met.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
from pathlib import Path

from tests.chaos import report
from tests.chaos.campaign import run
from tests.chaos.faults import all_faults
from tests.chaos.stage import until_terminated


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="What decides which faults come, and what they choose")
    parser.add_argument("--minutes", type=float, default=0.0, help="0 (default): each fault once")
    parser.add_argument("--rate", type=float, default=20.0, help="Transactions per second that publish, about")
    parser.add_argument(
        "--only", action="append", default=[], metavar="WORDS", help="Faults whose name has these words"
    )
    parser.add_argument("--report", type=Path, default=None, metavar="FOLDER", help="Where chaos.md and chaos.json go")
    parser.add_argument("--list", action="store_true", help="Show the faults, and which are skipped here")
    given = parser.parse_args()
    faults = [one for one in all_faults() if not given.only or any(words in one.name for words in given.only)]
    if given.list:
        for one in faults:
            print(f"{one.kind}: {one.name}{f' (skipped: {reason})' if (reason := one.lacks()) else ''}")  # noqa: T201
        return 0
    seed = random.randrange(1_000_000) if given.seed is None else given.seed
    with tempfile.TemporaryDirectory(prefix="pgbus-chaos-") as directory:
        logs = given.report or Path(directory)
        logs.mkdir(parents=True, exist_ok=True)
        result = asyncio.run(
            until_terminated(
                run(faults, seed=seed, directory=logs, seconds=60 * given.minutes, rate=given.rate, say=print)
            )
        )
    print(markdown := report.as_markdown(result))  # noqa: T201
    if given.report:
        (given.report / "chaos.md").write_text(markdown)
        (given.report / "chaos.json").write_text(report.as_json(result))
    if result.verdict.broken:
        return 1
    return 0 if all(episode.is_met for episode in result.episodes) else 2


if __name__ == "__main__":
    raise SystemExit(main())
