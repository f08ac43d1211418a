"""The example with the servers that Django's users run, over HTTP, and with a worker that is killed in between."""

from __future__ import annotations

import asyncio
import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

import msgspec
import pytest

from tests.support import ROOT, eventually
from tests.support.services import Service, Services
from tests.support.waiting import PATIENCE

EXAMPLE = ROOT / "examples" / "django"
SERVERS = {
    "runserver": (sys.executable, "manage.py", "runserver", "--noreload", "127.0.0.1:0"),
    "uvicorn": (sys.executable, "-m", "uvicorn", "--port", "0", "bakery.asgi:application"),
    "gunicorn": (sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0", "--threads", "4", "bakery.wsgi"),
}
BILLED = "SELECT count(*), count(DISTINCT order_id) FROM orders_bill"


async def ask(url: str, **form: str) -> tuple[int, object]:
    """The status and the JSON that a page answers with, None for an answer without; a form is posted."""

    def fetch() -> tuple[int, object]:
        data = urlencode(form).encode() if form else None
        try:
            with urllib.request.urlopen(url, data, timeout=PATIENCE) as answer:
                return answer.status, msgspec.json.decode(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, None

    return await asyncio.to_thread(fetch)


async def place(site: str, *cakes: str) -> list[int]:
    answers = await asyncio.gather(*(ask(f"{site}/orders", cake=cake) for cake in cakes))
    return [status for status, _ in answers]


async def billed(services: Services) -> tuple[int, ...]:
    """The number of bills, and of orders that have one."""
    [row] = await services.connection.fetch(BILLED)
    return tuple(row)


async def works(services: Services, worker: Service) -> None:
    await eventually(lambda: services._works(worker), PATIENCE)


@pytest.mark.parametrize("web_server", SERVERS)
async def test_each_order_is_billed_once_though_a_worker_is_killed(services: Services, web_server: str) -> None:
    bakery = Path(shutil.copytree(EXAMPLE, services.directory / "bakery"))
    migrated = services.python(bakery, "manage.py", "migrate", "--run-syncdb")
    assert migrated.returncode == 0, migrated.stderr
    worker = (sys.executable, "manage.py", "pgbus", "run")
    async with services.process(*SERVERS[web_server], cwd=bakery) as web:
        site = await web.address()
        assert await place(site, *["cheesecake"] * 20) == [201] * 20
        async with services.process(*worker, cwd=bakery) as first:

            async def some_are_billed() -> bool:
                return bool(await services.connection.fetchval("SELECT EXISTS (SELECT FROM orders_bill)"))

            await eventually(some_are_billed, PATIENCE)
            first.child.kill()
            await first.ends()
        assert await place(site, "carrots", *["brioche"] * 10) == [500, *[201] * 10]
        async with services.process(*worker, cwd=bakery) as second:
            await works(services, second)
            await services.settled()
            assert await billed(services) == (30, 30)
            assert await services.dead_errors() == []
            number = await services.connection.fetchval("SELECT max(id) FROM orders_order")
            assert await ask(f"{site}/orders/{number}") == (
                200,
                {"cake": "brioche", "bills": 1, "receipt": "SUCCESSFUL"},
            )
            assert (await ask(f"{site}/orders/1000"))[0] == 404


async def test_several_workers_of_the_command_run_the_projects_listeners(services: Services) -> None:
    bakery = Path(shutil.copytree(EXAMPLE, services.directory / "bakery"))
    assert services.python(bakery, "manage.py", "migrate", "--run-syncdb").returncode == 0
    command = (sys.executable, str(bakery / "manage.py"), "pgbus", "run", "--processes", "2")
    async with services.process(*command, cwd=services.directory) as workers:  # which is not where `manage.py` lies

        async def both_work() -> bool:
            return bool(await services.connection.fetchval("SELECT count(*) = 2 FROM pgbus.live_workers"))

        await eventually(both_work, PATIENCE)
        placed = services.python(
            bakery, "manage.py", "shell", "-c",
            "from django.db import transaction\nfrom orders.events import OrderPlaced\n"
            "from orders.models import Order\n"
            "from pgbus.contrib.django import publish\n"
            "with transaction.atomic(): publish(OrderPlaced(Order.objects.create(cake='tart').pk))",
        )  # fmt: skip
        assert placed.returncode == 0, placed.stderr
        await services.settled()
        assert await billed(services) == (1, 1)
        workers.child.terminate()
        assert await workers.ends() == 0
