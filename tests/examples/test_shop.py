"""The shop: it must run, and its check must be able to fail."""

import os
import re
import signal
from pathlib import Path

import asyncpg
import httpx2
import pytest
from click.testing import CliRunner

from pgbus.cli.program import load
from pgbus.demo.audit import Books, find_problems, read_books
from pgbus.demo.listeners import bus
from pgbus.demo.orders import Ledger, place_orders
from pgbus.demo.tables import create_tables
from pgbus.embedded import find_binaries
from pgbus.errors import EmbeddedPostgresError
from tests.conftest import Connect
from tests.examples.documents import outline, shown
from tests.examples.programs import pgbus, run
from tests.support import ROOT
from tests.support.waiting import PATIENCE, eventually

ORDERS = 40


async def test_the_demo_runs_on_a_database_that_is_given_and_finds_nothing_wrong(database: str) -> None:
    for _ in range(2):
        async with run(*pgbus("demo", "--existing-database", "--orders", str(ORDERS)), dsn=database) as demo:
            assert await demo.wait() == 0, demo.output
        assert "36 orders committed, 4 rolled back" in demo.output
        assert "send_confirmation         4   dead" in demo.output
        assert "WRONG" not in demo.output
        # The README shows how a demo ends, of more orders.
        lines = {outline(line) for line in demo.output.splitlines()}
        for first in ("356 orders committed", "Checked against the database:"):
            assert [line for line in shown(ROOT / "README.md", first) if outline(line) not in lines] == []


async def test_the_demo_fails_when_events_are_lost(database: str, connect: Connect) -> None:
    connection = await connect(database)
    # Several, for some of the orders are rolled back, and lose nothing.
    await connection.execute("""
        CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER lose BEFORE INSERT ON pgbus.outbox FOR EACH ROW
            WHEN (new.id BETWEEN 7 AND 14) EXECUTE FUNCTION lose();
    """)
    async with run(*pgbus("demo", "--existing-database", "--orders", str(ORDERS)), dsn=database) as demo:
        assert await demo.wait() == 1, demo.output
    assert "is missing from the log" in demo.output


async def test_a_demo_that_is_interrupted_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    try:
        find_binaries()
    except EmbeddedPostgresError as error:
        pytest.skip(f"needs PostgreSQL's programs: {error}")
    scratch = tmp_path / "a temporary directory"
    scratch.mkdir()
    # So many orders that it does not end by itself before it is interrupted, which its lines of progress lead to.
    async with run(*pgbus("demo", "--orders", "1000000"), dsn=None, environ={"TMPDIR": str(scratch)}) as demo:
        await demo.wait_for(" rolled back; ")
        workers = _children(demo.process.pid)
        assert len(workers) >= 2  # the server, its watchdog, the worker
        demo.process.send_signal(signal.SIGINT)
        assert await demo.wait() == 130, demo.output
    await eventually(lambda: not any(_alive(pid) for pid in workers))
    assert list(scratch.iterdir()) == []


async def test_the_open_shop_serves_its_dashboard_until_ctrl_c(tmp_path: Path) -> None:
    try:
        find_binaries()
    except EmbeddedPostgresError as error:
        pytest.skip(f"needs PostgreSQL's programs: {error}")
    async with run(*pgbus("demo", "--dashboard", "--port", "0"), dsn=None, environ={"TMPDIR": str(tmp_path)}) as demo:
        await demo.wait_for("/?token=")
        (address, *_) = re.findall(r"http://\S+", demo.output)
        async with httpx2.AsyncClient(follow_redirects=True, timeout=PATIENCE) as browser:

            async def names_the_listeners() -> bool:
                overview = await browser.get(address)
                assert overview.status_code == 200
                return all(
                    name in overview.text for name in ("send_confirmation", "reserve_stock", "shop.order_placed")
                )

            await eventually(names_the_listeners, timeout=2 * PATIENCE)
        programs = _children(demo.process.pid)
        assert len(programs) >= 5  # the server, three services, the dashboard
        demo.process.send_signal(signal.SIGINT)
        assert await demo.wait() == 0, demo.output
    await eventually(lambda: not any(_alive(pid) for pid in programs), timeout=PATIENCE)
    assert list(tmp_path.iterdir()) == []


def _children(pid: int) -> list[int]:
    listing = os.popen(f"ps -o pid= --ppid {pid}" if os.uname().sysname == "Linux" else f"pgrep -P {pid}")
    with listing:
        return [int(line) for line in listing]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_shop_with_a_dashboard_has_a_database_and_workers_of_its_own() -> None:
    for option in ("--existing-database", "--no-worker"):
        answer = CliRunner().invoke(load("demo"), ["--dashboard", option])
        assert answer.exit_code == 2
        assert "--dashboard has a database and workers of its own" in answer.output


# ------------------------------------------------------------------------------------------- the check, on a true run


@pytest.fixture
async def finished(database: str, connect: Connect) -> tuple[asyncpg.Connection, Ledger, Books]:
    """A database in which a run has ended, what its tills know, and the books from before it."""
    connection, ledger = await connect(database), Ledger()
    await create_tables(connection)
    before = await read_books(connection)
    async with (
        run(*pgbus("run", "pgbus.demo"), dsn=database) as worker,
        asyncpg.create_pool(database, min_size=1, max_size=6) as pool,
    ):
        await worker.wait_for("update_dashboard is new")
        await place_orders(pool, ORDERS, ledger)
        await eventually(lambda: _settled(connection, len(ledger.committed)))
    return connection, ledger, before


async def _settled(connection: asyncpg.Connection, events: int) -> bool:
    ended = await connection.fetchval("SELECT count(*) FROM pgbus.attempts WHERE outcome IN ('done', 'dead')")
    return bool(ended == 3 * events)


async def test_the_check_finds_every_kind_of_damage(finished: tuple[asyncpg.Connection, Ledger, Books]) -> None:
    connection, ledger, before = finished
    assert await find_problems(connection, ledger, after=0, before=before) == []
    (rolled_back, *_) = ledger.rolled_back
    for damage, complaint in (
        ("DELETE FROM pgbus.events WHERE position = (SELECT max(position) FROM pgbus.events)", "missing from the log"),
        ("DELETE FROM shop.orders WHERE id = (SELECT min(id) FROM shop.orders)", "is not in the table"),
        ("DELETE FROM pgbus.history WHERE first = (SELECT max(first) FROM pgbus.history)", "0 times instead of once"),
        ("INSERT INTO pgbus.history SELECT * FROM pgbus.history", "2 times instead of once"),
        ("DELETE FROM pgbus.dead_letters", "the dead letters should be"),
        ("UPDATE shop.stock SET quantity = quantity - 1 WHERE sku = 'figs'", "should have written"),
        (
            f"UPDATE pgbus.events SET event_id = '{rolled_back}' WHERE position = (SELECT position FROM pgbus.dead)",
            "although the order was rolled back",
        ),
    ):
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(damage)
        problems = await find_problems(connection, ledger, after=0, before=before)
        await transaction.rollback()
        assert any(complaint in problem for problem in problems), (damage, problems)


def test_the_shop_shows_its_bus_to_pgbus_run() -> None:
    from pgbus import demo

    assert demo.bus is bus
    assert [listener.name for listener in bus.listeners] == ["send_confirmation", "reserve_stock", "update_dashboard"]
