"""The example of Litestar: its real server, driven over HTTP, whose worker is killed with work in its hands."""

from __future__ import annotations

import signal
import sys
from typing import Any

import pytest

from tests.support import ROOT, eventually
from tests.support.services import Services
from tests.support.waiting import PATIENCE

httpx = pytest.importorskip("httpx", reason="httpx is not installed")

EXAMPLE = ROOT / "examples" / "litestar"
LITESTAR = (sys.executable, "-W", "ignore", "-m", "litestar", "--app", "app:app")


async def test_each_confirmed_user_gets_one_mail_though_the_worker_is_killed(services: Services) -> None:
    for package in ("litestar", "advanced_alchemy", "uvicorn"):
        if not is_installed(package):
            pytest.skip(f"{package} is not installed")
    await services.connection.execute((EXAMPLE / "tables.sql").read_text())
    async with (
        services.process(*LITESTAR, "run", "--port", "0", cwd=EXAMPLE) as web,
        httpx.AsyncClient(base_url=await web.address(), timeout=PATIENCE) as client,
    ):
        async with services.process(*LITESTAR, "pgbus", "run", cwd=EXAMPLE) as killed:
            await eventually(lambda: services._works(killed), PATIENCE)
            async with services.connection.transaction():
                await services.connection.execute("LOCK TABLE mails")  # so that it is killed within the handler
                told = [await sign_up(client, f"user{number}@example.com") for number in range(3)]
                await eventually(lambda: waits_for_the_lock(services), PATIENCE)
                killed.child.send_signal(signal.SIGKILL)
                await killed.ends()
        told += [await sign_up(client, f"user{number}@example.com") for number in range(3, 6)]
        assert (await client.post("/users", json={"email": "nothing"})).status_code == 400
        async with services.process(*LITESTAR, "pgbus", "run", cwd=EXAMPLE) as worker:
            await services.settled()
            assert (await client.get("/mails")).json() == {"mails": 6}
            worker.child.send_signal(signal.SIGTERM)
            assert await worker.ends() == 0
        web.child.send_signal(signal.SIGINT)
        assert await web.ends() == 0
    for table, column in [("users", "id"), ("mails", "user_id")]:
        rows = await services.connection.fetch(f"SELECT {column} FROM {table} ORDER BY 1")
        assert [row[0] for row in rows] == told


def is_installed(package: str) -> bool:
    """It is not imported here: it may warn when it is."""
    from importlib.util import find_spec

    return find_spec(package) is not None


async def sign_up(client: Any, email: str) -> int:
    """The number of the user, of which the client was told."""
    answer = await client.post("/users", json={"email": email})
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


async def waits_for_the_lock(services: Services) -> bool:
    query = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = CAST('mails' AS regclass) AND NOT granted)"
    return bool(await services.connection.fetchval(query))


async def test_the_commands_of_pgbus_are_there_for_the_applications_bus(services: Services) -> None:
    if not is_installed("litestar"):
        pytest.skip("litestar is not installed")
    litestar = LITESTAR[1:]
    await services.connection.execute((EXAMPLE / "tables.sql").read_text())
    for command in (("status", "--json"), ("dead", "list"), ("db", "check"), ("events",), ("--help",)):
        done = services.python(EXAMPLE, *litestar, "pgbus", *command)
        assert (done.returncode, done.stderr) == (0, ""), command
    done = services.python(EXAMPLE, *litestar, "pgbus", "listeners", "pause", "nobody")
    assert done.returncode == 1
    assert "nobody" in done.stderr


def test_the_page_shows_the_program() -> None:
    page = (ROOT / "docs" / "how-to" / "litestar.md").read_text(encoding="utf-8")
    program = (EXAMPLE / "app.py").read_text(encoding="utf-8")
    assert f"```python\n{program}```\n" in page
