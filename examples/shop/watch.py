"""The dashboard on a shop that is open: a PostgreSQL, workers of the shop, its bank and its carrier, clients that place
orders, until Ctrl-C.

python -m examples.shop.watch [--port PORT]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from pathlib import Path

import asyncpg

from examples.shop.orders import TILLS, Ledger, place_orders
from examples.shop.tables import create_tables
from pgbus import migrate
from pgbus.embedded import EmbeddedPostgres

PAUSE = 0.6
"""Average seconds between two orders of one client: it goes on for as long as somebody looks."""


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(prog="python -m examples.shop.watch", description=__doc__)
    parser.add_argument("--port", default="8321", help="where the dashboard listens; default %(default)s")
    parser.add_argument("--token", help="what its address has; default: a new one each time")
    arguments = parser.parse_args()
    with EmbeddedPostgres() as server, tempfile.TemporaryFile() as log:
        migrate.upgrade(server.dsn())
        try:
            return asyncio.run(watch(server.dsn(), arguments, log.fileno()))
        except KeyboardInterrupt:
            return 0


async def watch(dsn: str, arguments: argparse.Namespace, log: int) -> int:
    token = ["--token", arguments.token] if arguments.token else []
    services = ("examples.shop", "examples.shop.street:bank", "examples.shop.street:carrier")
    workers = [await pgbus("run", service, dsn=dsn, log=log) for service in services]
    dashboard = await pgbus("dashboard", "--port", arguments.port, *token, dsn=dsn)
    async with asyncpg.create_pool(dsn, min_size=1, max_size=TILLS) as pool:
        async with pool.acquire() as connection:
            await create_tables(connection)
        try:
            while all(process.returncode is None for process in (dashboard, *workers)):
                await place_orders(pool, 100, Ledger(), pause=PAUSE)
        finally:
            for process in (dashboard, *workers):
                if process.returncode is None:
                    process.terminate()
                await process.wait()
    return 1


async def pgbus(*arguments: str, dsn: str, log: int | None = None) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pgbus.cli", *arguments,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PGBUS_DSN": dsn, "PGBUS_SUPERVISED": "1"},
        stdin=asyncio.subprocess.PIPE,
        stdout=log,
        stderr=log,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
