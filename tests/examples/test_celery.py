"""The example of a service that leaves Celery: both run at once, and each order gets one receipt."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from fnmatch import fnmatch
from pkgutil import iter_modules

import pytest

import pgbus
from tests.contracts.faces import sqlalchemy_url
from tests.examples.documents import blocks
from tests.support import ROOT, eventually
from tests.support.services import Services
from tests.support.waiting import PATIENCE

celery = pytest.importorskip("celery", reason="celery is not installed")

PAGE = ROOT / "docs" / "how-to" / "from-celery.md"
EXAMPLE = ROOT / "examples" / "celery"
CELERY = (
    "-m", "celery", "-A", "mail", "worker", "--pool", "solo", "--without-gossip", "--without-mingle",
    "--without-heartbeat", "--loglevel", "INFO",
)  # fmt: skip


def names() -> Iterator[str]:
    """What users of Celery see by name: tasks, results, signals, errors, commands, the worker's options, settings."""
    from celery import canvas, contrib, exceptions, result, signals
    from celery.app.defaults import NAMESPACES, flatten
    from celery.bin.celery import celery as program

    for shown in (celery.Task, result.AsyncResult):
        yield from (name for name in dir(shown) if not name.startswith("_") and name != "AsyncResult")
    for module in (canvas, exceptions, result, signals):
        yield from module.__all__
    yield from (f"celery.contrib.{module.name}" for module in iter_modules(contrib.__path__))
    yield from program.commands
    options = (option for one in program.commands["worker"].params for option in one.opts)
    yield from (option for option in options if option.startswith("--"))
    yield from (setting for setting, _ in flatten(NAMESPACES))


def test_the_page_says_of_every_name_of_celery_where_it_is_in_pgbus() -> None:
    if celery.VERSION[:2] != (5, 7):
        pytest.skip("the page names what Celery 5.7 has")
    page = PAGE.read_text(encoding="utf-8").split("## Every name of Celery\n")[1].split("\n## taskiq")[0]
    told = [
        name for line in re.findall(r"^\| (`.*?) \| ", page, re.MULTILINE) for name in re.findall(r"`([^`]+)`", line)
    ]
    assert sorted({name for name in names() if not any(fnmatch(name, pattern) for pattern in told)}) == []


def test_the_page_shows_the_programs_of_the_example() -> None:
    shown = {block.text.partition("\n")[0]: block.text for block in blocks(PAGE, "python")}
    for name in ("bus", "bridge", "receipts", "mail", "moved"):
        program = (EXAMPLE / f"{name}.py").read_text(encoding="utf-8")
        assert shown[program.partition("\n")[0]].strip() == program.strip()


async def test_each_order_gets_one_receipt_while_a_service_moves_from_celery(services: Services) -> None:
    await services.connection.execute((EXAMPLE / "tables.sql").read_text())
    # Celery's filesystem transport needs no server either, but it may read a message that is not written yet.
    broker = {"CELERY_BROKER_URL": f"sqla+{sqlalchemy_url(services.dsn, 'psycopg')}"}
    async with AsyncExitStack() as at_work:
        tasks = await at_work.enter_async_context(services.process(sys.executable, *CELERY, cwd=EXAMPLE, **broker))
        async with services.worker(EXAMPLE, "bridge", **broker):
            await tasks.says("ready")
            assert services.run(EXAMPLE, "place_order.py", "ada@example.com") == "placed order 1\n"
            assert await eventually(lambda: receipts(services, 1), PATIENCE) == ["Celery"]
            await at_work.enter_async_context(services.worker(EXAMPLE, "moved"))
            await place_order(services, 2)
            await eventually(lambda: receipts(services, 2), PATIENCE)
            # The task of the second order has run when Celery says so; until then it might send another one.
            await tasks.says("succeeded", times=2)
        services.pgbus(EXAMPLE, "listeners", "remove", "receipts_by_celery", "--yes")
        await place_order(services, 3)
        *_, last = await eventually(lambda: receipts(services, 3), PATIENCE)
        assert last == "pgbus"
        await services.settled()
    rows = await services.connection.fetch("SELECT id, receipt_sent FROM orders ORDER BY id")
    assert [tuple(row) for row in rows] == [(1, True), (2, True), (3, True)]
    # What the task publishes is caused by the event that had it called, as what a listener publishes is.
    trees = await services.connection.fetch("""
        SELECT t.depth, t.name FROM pgbus.events AS e, pgbus.event_tree(e.event_id) AS t
        WHERE e.topic = 'orders.placed' AND t.kind = 'event' ORDER BY e.position, t.depth""")
    assert [tuple(row) for row in trees] == 3 * [(0, "orders.placed"), (1, "receipts.sent")]


async def place_order(services: Services, order_id: int) -> None:
    """Place an order as `place_order.py` does."""
    async with services.connection.transaction():
        await services.connection.execute("INSERT INTO orders (email) VALUES ('bob@example.com')")
        payload = {"order_id": order_id, "email": "bob@example.com"}
        await pgbus.create(services.dsn).publish(payload, topic="orders.placed", using=services.connection)


async def receipts(services: Services, expected: int) -> list[str]:
    """Who sent the receipts, in the order of the orders; empty until there are so many."""
    rows = await services.connection.fetch("SELECT sent_by FROM receipts ORDER BY order_id")
    assert len(rows) <= expected
    return [row["sent_by"] for row in rows] if len(rows) == expected else []
