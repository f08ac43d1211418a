"""The demo: a PostgreSQL, a worker, clients that place orders, and a check of the result."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import IO

import asyncpg
from rich.console import Console

from pgbus import migrate
from pgbus.admin import Admin
from pgbus.config import Config
from pgbus.demo.audit import COUNTS, LISTENERS, STORY, SUMMARY, Books, find_problems, read_books
from pgbus.demo.listeners import bus
from pgbus.demo.orders import TILLS, Ledger, place_orders
from pgbus.demo.programs import start_program
from pgbus.demo.screen import (
    Screen,
    State,
    make_console,
    open_screen,
    print_report,
    print_story,
    print_verdict,
    say,
)
from pgbus.demo.tables import create_tables
from pgbus.embedded import EmbeddedPostgres

ORDERS = 400
POLL = 0.2  # seconds
PATIENCE = 60.0  # seconds without any progress


class DemoFailed(Exception):
    """The run could not be finished."""


def demonstrate(config: Config | None, *, orders: int = ORDERS, with_worker: bool = True) -> int:
    """Run the demo and print its report; returns the exit code, 1 if the check failed.

    Without a `config` it starts an embedded PostgreSQL. With `with_worker=False` a worker of yours must run already.
    """
    console = make_console()
    try:
        with _database(config, console) as own, tempfile.TemporaryFile() as log:
            return asyncio.run(_run(own, orders, with_worker, console, log))
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    except DemoFailed as error:
        console.print(f"the demo failed: {error}", soft_wrap=True)
        return 1


@contextmanager
def _database(config: Config | None, console: Console) -> Iterator[Config]:
    """Yield the configuration given, or that of a server that runs as long as the demo, with the bus's tables."""
    if config is not None:
        say(console, "Using the configured database")
        yield _upgraded(config)
        return
    began = time.monotonic()
    with EmbeddedPostgres() as server:
        say(console, f"PostgreSQL runs, in a temporary directory, after {time.monotonic() - began:.1f} s")
        yield _upgraded(replace(bus.config, dsn=server.dsn(), direct_dsn=None))


def _upgraded(config: Config) -> Config:
    migrate.upgrade(config.session_dsn, namespace=config.namespace)
    return config


async def _run(config: Config, orders: int, with_worker: bool, console: Console, log: IO[bytes]) -> int:
    async with (
        _worker(config, console, log, wanted=with_worker) as worker,
        asyncpg.create_pool(config.dsn, min_size=1, max_size=TILLS + 1) as pool,
        Admin.connect(config) as admin,
    ):
        demo = _Demo(pool, admin, worker, State(orders, Ledger()))
        await demo.open()
        say(console, f"{TILLS} clients place {orders} orders, each in its own transaction")
        with open_screen(console) as screen:
            await demo.run(screen)
        return await demo.report(console)


class _Demo:
    """Run the demo: wait for the listeners, place the orders, wait until no event is owed, and check the result."""

    def __init__(
        self, pool: asyncpg.Pool, admin: Admin, worker: asyncio.subprocess.Process | None, state: State
    ) -> None:
        self._pool = pool
        self._admin = admin
        self._worker = worker
        self._state = state
        self._start = 0  # position
        self._before = Books(0, 0, 0, 0)

    async def open(self) -> None:
        async with self._pool.acquire() as connection:
            await create_tables(connection)
            await self._until(self._listeners_are_ready, "the listeners are not registered")
            await self._until(self._nothing_is_owed, "events of an earlier run are still owed")
            self._before = await read_books(connection)
        self._start = (await self._admin.status()).log_head

    async def run(self, screen: Screen) -> None:
        async with asyncio.TaskGroup() as tasks:
            tills = tasks.create_task(place_orders(self._pool, self._state.orders, self._state.ledger))
            while not tills.done():
                await self._look(screen)
                await asyncio.wait([tills], timeout=POLL)
        await self._until(self._nothing_is_owed, "events are still owed to listeners", screen)
        await self._look(screen)

    async def report(self, console: Console) -> int:
        ledger = self._state.ledger
        async with self._pool.acquire() as connection:
            print_report(console, ledger, await connection.fetch(SUMMARY, self._start))
            for order in ledger.committed.values():
                if order.email is None:
                    print_story(console, order.order_id, await connection.fetch(STORY, str(order.order_id)))
            problems = await find_problems(connection, ledger, after=self._start, before=self._before)
        print_verdict(console, ledger, problems)
        return 1 if problems else 0

    async def _look(self, screen: Screen) -> None:
        rows = await self._pool.fetch(COUNTS, self._start)
        self._state.listeners = {row["listener_name"]: (row["delivered"], row["retried"], row["dead"]) for row in rows}
        screen.show(self._state)

    async def _listeners_are_ready(self) -> bool:
        status = await self._admin.status()
        running = {name for worker in status.workers if worker.live for name in worker.listeners}
        return running.issuperset(LISTENERS) and {row.listener_name for row in status.listeners}.issuperset(LISTENERS)

    async def _nothing_is_owed(self) -> bool:
        status = await self._admin.status()
        owed = sum(row.lag_events for row in status.listeners if row.listener_name in LISTENERS)
        return status.outbox_waiting + owed == 0

    async def _until(
        self, condition: Callable[[], Awaitable[bool]], otherwise: str, screen: Screen | None = None
    ) -> None:
        deadline = time.monotonic() + PATIENCE
        while not await condition():
            if self._worker is not None and self._worker.returncode is not None:
                raise DemoFailed(f"the worker ended with exit code {self._worker.returncode}")
            if time.monotonic() > deadline:
                raise DemoFailed(f"{otherwise} after {PATIENCE:.0f} s")
            if screen:
                await self._look(screen)
            await asyncio.sleep(POLL)


@asynccontextmanager
async def _worker(
    config: Config, console: Console, log: IO[bytes], *, wanted: bool
) -> AsyncIterator[asyncio.subprocess.Process | None]:
    """`pgbus run pgbus.demo`, stopped by SIGTERM in the end; its log is shown if that went wrong."""
    if not wanted:
        yield None
        return
    say(console, "Worker: pgbus run pgbus.demo")
    process = await start_program("run", "pgbus.demo", config=config, log=log.fileno())
    failed = True
    try:
        yield process
        failed = False
    finally:
        code = await _stop(process)
        if failed and sys.exc_info()[0] not in (asyncio.CancelledError, KeyboardInterrupt):
            log.seek(0)
            console.print(log.read().decode(errors="replace")[-5000:], soft_wrap=True, markup=False)
    if code != 0:
        raise DemoFailed(f"the worker ended with exit code {code}")


async def _stop(process: asyncio.subprocess.Process) -> int:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(40):
            return await process.wait()
    except TimeoutError:
        process.kill()
        return await process.wait()
