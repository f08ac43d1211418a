"""A shop that is open until Ctrl-C, for the dashboard: workers of the shop, its bank and its carrier, and clients."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace

import asyncpg

from pgbus import migrate
from pgbus.config import Config
from pgbus.demo.listeners import bus
from pgbus.demo.orders import TILLS, Ledger, place_orders
from pgbus.demo.programs import start_program
from pgbus.demo.screen import make_console, say
from pgbus.demo.tables import create_tables
from pgbus.embedded import EmbeddedPostgres

PAUSE = 0.6
"""Average seconds between two orders of one client: it goes on for as long as somebody looks."""
SERVICES = ("pgbus.demo", "pgbus.demo.street:bank", "pgbus.demo.street:carrier")


def keep_open(*, port: int) -> int:
    """Serve the dashboard of the shop on this port until Ctrl-C; returns the exit code."""
    try:
        with EmbeddedPostgres() as server, tempfile.TemporaryFile() as log:
            config = replace(bus.config, dsn=server.dsn(), direct_dsn=None)
            say(make_console(), "PostgreSQL runs. Starting three services and their dashboard; Ctrl-C stops all")
            migrate.upgrade(config.session_dsn)
            return asyncio.run(_keep_open(config, port, log.fileno()))
    except KeyboardInterrupt:
        return 0


async def _keep_open(config: Config, port: int, log: int) -> int:
    programs = [await start_program("run", service, config=config, log=log) for service in SERVICES]
    programs.append(await start_program("dashboard", "--port", str(port), "--role", "operator", config=config))
    try:
        async with asyncpg.create_pool(config.dsn, min_size=1, max_size=TILLS) as pool:
            async with pool.acquire() as connection:
                await create_tables(connection)
            while all(program.returncode is None for program in programs):
                await place_orders(pool, 100, Ledger(), pause=PAUSE)
    finally:
        for program in programs:
            if program.returncode is None:
                program.terminate()
            await program.wait()
    return 1
