"""A browser for the tests of this folder: Debian's chromium, steered by playwright; without them they are skipped.

Playwright's loop runs in the tests' thread meanwhile, so whatever else needs a loop runs in another one.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg
import pytest
import uvicorn

from pgbus.config import Config
from pgbus.contrib.dashboard import Dashboard
from pgbus.contrib.listening import listen
from pgbus.database.migrate.sessions import run_blocking
from pgbus.testing.databases import DatabaseServer
from tests.support.dashboards import everyone
from tests.support.rows import Rows

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
ORDERS = 60


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for a module."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium, or say in CHROMIUM where it is")
    with playwright.sync_playwright() as driver:
        # As root, and in containers without a user namespace, chromium starts without its sandbox only.
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@dataclass(frozen=True, slots=True)
class Site:
    """A dashboard that is served, and the database behind it."""

    address: str
    dashboard: Dashboard
    dsn: str

    def execute(self, query: str) -> None:
        """Change something in the database."""
        run_blocking(_execute(self.dsn, query))


@pytest.fixture(scope="module")
def site(server: DatabaseServer, upgraded_template: str) -> Iterator[Site]:
    """A shop with a few orders, of which number 7 was charged and never shipped."""
    with server.temporary_database(template=upgraded_template) as dsn:
        run_blocking(_fill(dsn))
        with _serving(Dashboard(Config(dsn=dsn), allow=everyone("operator"))) as (address, dashboard):
            yield Site(address, dashboard, dsn)


@contextmanager
def _serving(dashboard: Dashboard) -> Iterator[tuple[str, Dashboard]]:
    # By a thread: the browser asks while a test waits for it.
    listening, address = listen("127.0.0.1", 0)
    settings = uvicorn.Config(dashboard, log_config=None, access_log=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="dashboard")
    with listening:
        thread.start()
        try:
            yield address, dashboard
        finally:
            server.should_exit = True
            thread.join()


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def _execute(dsn: str, query: str) -> None:
    async with _connected(dsn) as connection:
        await connection.execute(query)


async def _fill(dsn: str) -> None:
    async with _connected(dsn) as connection:
        rows = Rows(connection)
        charge = await rows.listener("charge", "shop.order_placed")
        ship = await rows.listener("ship", "bank.*")
        await rows.worker("worker-1", "charge", "ship", live=False)
        for number in range(1, ORDERS + 1):
            await _place_order(rows, number, charge=charge, ship=ship)
        await connection.execute(MORE)
        await rows.dead_letter(charge, 1, error="ValueError: no such card")
        await connection.execute("CALL pgbus.operate('discard', '{\"listener\": \"charge\"}', 'not worth it', 'ann')")


async def _place_order(rows: Rows, number: int, *, charge: int, ship: int) -> None:
    position = 2 * number - 1
    payload = {"order_id": number}
    order = await rows.event(position, "shop.order_placed", payload, key=f"customer-{number}")
    await rows.attempt(charge, position)
    cause = {"correlation_id": str(order), "causation_id": str(order)}
    charged = await rows.event(position + 1, "bank.charged", payload, headers=cause)
    await rows.connection.execute(
        "INSERT INTO pgbus.causes (position, id, correlation_id, causation_id) VALUES ($1, $2, $3, $4)",
        position + 1, charged, str(order), order,
    )  # fmt: skip
    if number != 7:
        await rows.attempt(ship, position + 1)
        return
    for attempt in (1, 2, 3):
        outcome = "dead" if attempt == 3 else "retry"
        await rows.attempt(ship, position + 1, outcome, attempt=attempt, error="ValueError: no carrier takes 9 pieces")
    await rows.dead_letter(ship, position + 1, error="ValueError: no carrier takes 9 pieces")


SCHEMA = json.dumps({"parameters": {"type": "object", "properties": {"order_id": {"type": "integer"}}}})
OLD_SCHEMA = json.dumps({"parameters": {"type": "object", "properties": {"number": {"type": "integer"}}}})
MORE = f"""
INSERT INTO pgbus.rpc_requests (call_id, procedure, arguments, caller, caller_name, deadline)
VALUES (pgbus.uuid7(), 'carrier.quote', '{{}}', 'c', 'web', now() + interval '1 minute');
INSERT INTO pgbus.schedules (schedule_name, rule, next_run_at) VALUES ('nightly', 'every 60 s', now());
INSERT INTO pgbus.schedule_runs (run_id, schedule_name, due_at, attempt, worker, started_at, finished_at, outcome)
VALUES (gen_random_uuid(), 'nightly', now(), 1, 'worker-1', now(), now(), 'done');
INSERT INTO pgbus.schemas (kind, name, service, version, schema, hash, first_seen_at)
VALUES ('event', 'shop.order_placed', 'shop', 1, '{OLD_SCHEMA}', 'x', now() - interval '1 day'),
       ('event', 'shop.order_placed', 'shop', 2, '{SCHEMA}', 'y', now());
"""
