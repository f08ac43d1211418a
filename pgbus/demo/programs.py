"""Starts the programs of pgbus that the demo shows."""

from __future__ import annotations

import asyncio
import os
import sys

from pgbus.config import Config


async def start_program(*arguments: str, config: Config, log: int | None = None) -> asyncio.subprocess.Process:
    """Start `pgbus` with these arguments on the database of the configuration; `log` is where its output goes."""
    # Settings of the shell are for another bus, and so is what a direct DSN names.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PGBUS_")}
    kept |= {name: os.environ[name] for name in ("PGBUS_PG_BINDIR",) if name in os.environ}
    direct = {"PGBUS_DIRECT_DSN": config.direct_dsn} if config.direct_dsn else {}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pgbus.cli", *arguments,
        # Its input ends when we do, however we end, and then so does the program.
        env={**kept, **direct, "PGBUS_DSN": config.dsn or "", "PGBUS_SUPERVISED": "1"},
        stdin=asyncio.subprocess.PIPE,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )  # fmt: skip
