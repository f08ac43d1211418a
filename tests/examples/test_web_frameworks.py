"""The examples of web frameworks: real servers, driven over HTTP, whose worker is killed with work in its hands."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, eventually
from tests.support.services import Services
from tests.support.waiting import PATIENCE

httpx = pytest.importorskip("httpx2", reason="httpx2 is not installed")

UVICORN = ("-m", "uvicorn", "app:app", "--port", "0")
FLASK = ("-m", "flask", "--app", "app", "run", "--port", "0")

SERVERS = {"fastapi": (*UVICORN, "--root-path", "/api"), "flask": FLASK, "lihil": UVICORN}


@pytest.fixture(params=sorted(SERVERS))
def example(request: pytest.FixtureRequest) -> Path:
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    if "uvicorn" in SERVERS[request.param]:
        pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    return ROOT / "examples" / str(request.param)


async def test_each_confirmed_order_is_packed_once_though_the_worker_is_killed(
    services: Services, example: Path
) -> None:
    await services.connection.execute((example / "tables.sql").read_text())
    async with (
        services.process(sys.executable, *SERVERS[example.name], cwd=example, PGBUS_RPC_TIMEOUT=str(PATIENCE)) as web,
        httpx.AsyncClient(base_url=await web.address(), timeout=PATIENCE) as client,
    ):
        assert (await client.get("/prices/pear")).status_code == 503
        async with services.process(sys.executable, "-m", "pgbus.cli", "run", cwd=example) as killed:
            await services.at_work(killed)
            assert (await client.get("/prices/pear")).json() == {"price": 40}
            async with services.connection.transaction():
                await services.connection.execute("LOCK TABLE parcels")  # so that it is killed within the handler
                told = [await order(client, "pear") for _ in range(3)]
                await eventually(lambda: waits_for_the_lock(services), PATIENCE)
                killed.child.send_signal(signal.SIGKILL)
                await killed.ends()
        told += [await order(client, "plum") for _ in range(3)]
        assert (await client.post("/orders?item=nothing")).status_code == 422
        async with services.worker(example):
            await services.settled()
            assert (await client.get("/parcels")).json() == {"parcels": 6}
    for table, column in [("orders", "id"), ("parcels", "order_id")]:
        rows = await services.connection.fetch(f"SELECT {column} FROM {table} ORDER BY 1")
        assert [row[0] for row in rows] == told


async def order(client: Any, item: str) -> int:
    """Order something; its number, of which the client was told."""
    answer = await client.post(f"/orders?item={item}")
    assert answer.status_code == 201, answer.text
    return int(answer.json()["order_id"])


async def waits_for_the_lock(services: Services) -> bool:
    query = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = CAST('parcels' AS regclass) AND NOT granted)"
    return bool(await services.connection.fetchval(query))


@pytest.mark.parametrize("name", sorted(SERVERS))
def test_the_page_shows_the_program(name: str) -> None:
    page = (ROOT / "docs" / "how-to" / f"{name}.md").read_text(encoding="utf-8")
    for file in ("bus.py", "app.py"):
        assert f"```python\n{(ROOT / 'examples' / name / file).read_text(encoding='utf-8')}```\n" in page, file
