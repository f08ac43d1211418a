"""Metrics of a process and of the database, and the probes, over HTTP."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import httpx2 as httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Mount

import pgbus
from pgbus.contrib.prometheus import MonitoringApp
from pgbus.contrib.prometheus.serving import serving
from pgbus.contrib.starlette import App
from pgbus.errors import ConfigurationError
from pgbus.telemetry import LeaderChanged, Sequenced, SessionLost, Settled
from tests.support.programs import Talking, talking
from tests.support.waiting import PATIENCE, eventually
from tests.support.workers import Watch, open_bus, running

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@asynccontextmanager
async def client_of(app: App) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://bus") as client:
        yield client


async def samples_of(client: httpx.AsyncClient, path: str = "/metrics") -> Samples:
    response = await client.get(path)
    assert response.status_code == 200, response.text
    families = text_string_to_metric_families(response.text)
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}


async def test_the_metrics_of_a_process_count_what_it_did(database: str) -> None:
    async with open_bus(database) as bus:
        app = MonitoringApp(bus)
        watch = Watch(bus)

        @bus.listener("a.*", name="half", retry=1)
        async def half(event: int) -> None:
            if event % 2:
                raise ValueError(event)

        @bus.procedure("math.double")
        async def double(n: int) -> int:
            return 2 * n

        async with running(bus), client_of(app) as client:
            await bus.publish_many(range(4), topic="a.b")
            await bus.publish(4, topic="a.c")
            assert await bus.call("math.double", {"n": 1}) == 2
            await watch.until(lambda _: sum(one.done + one.dead for one in watch.of(Settled)) == 5)
            await watch.until(lambda _: sum(one.events for one in watch.of(Sequenced)) == 5)
            found = await samples_of(client)
    assert found["pgbus_published_events_total", (("topic", "a.b"),)] == 4
    assert found["pgbus_published_events_total", (("topic", "a.c"),)] == 1
    assert found["pgbus_publish_duration_seconds_count", (("outcome", "done"),)] == 2
    assert found["pgbus_handled_events_total", (("listener_name", "half"), ("outcome", "done"))] == 3
    assert found["pgbus_handled_events_total", (("listener_name", "half"), ("outcome", "dead"))] == 2
    assert found["pgbus_handler_duration_seconds_count", (("listener_name", "half"),)] == 5
    assert found["pgbus_event_latency_seconds_count", (("listener_name", "half"),)] == 5
    assert found["pgbus_running_handlers", (("listener_name", "half"),)] == 0
    assert found["pgbus_sequenced_events_total", ()] == 5
    assert found["pgbus_call_duration_seconds_count", (("outcome", "answered"), ("procedure", "math.double"))] == 1
    assert (
        found["pgbus_served_call_duration_seconds_count", (("outcome", "answered"), ("procedure", "math.double"))] == 1
    )
    assert found["pgbus_leader", ()] == 1


async def test_the_leader_shows_the_gauges_of_the_database_and_no_other_process_does(
    database: str, connection: asyncpg.Connection
) -> None:
    async with open_bus(database) as bus, open_bus(database) as other:
        app, bystander = MonitoringApp(bus), MonitoringApp(other)

        @bus.listener("a.*", name="strict", ordered=True, on_poison="block", retry=1)
        async def strict(event: int) -> None:
            raise ValueError(event)

        watch = Watch(bus)
        async with running(bus), client_of(app) as client, client_of(bystander) as elsewhere:
            for n in range(2):
                await bus.publish(n, topic="a.b", key="k")
            await watch.until(lambda _: sum(one.dead for one in watch.of(Settled)) == 1)

            async def is_blocked() -> bool:
                return bool(await connection.fetchval("SELECT blocked FROM pgbus.listener_lag"))

            await eventually(is_blocked, PATIENCE)
            found = await samples_of(client)
            others = await samples_of(elsewhere)
    strict_one = (("listener_name", "strict"),)
    assert found["pgbus_listener_dead", strict_one] == 1
    assert found["pgbus_listener_blocked_keys", strict_one] == 1
    assert found["pgbus_listener_lag_events", strict_one] == 1
    assert found["pgbus_listener_lag_seconds", strict_one] > 0
    assert found["pgbus_outbox_oldest_seconds", ()] == 0
    info = [labels for name, labels in found if name == "pgbus_listener_info"]
    assert [dict(one)["state"] for one in info] == ["active"]
    assert sum(value for (name, _), value in found.items() if name == "pgbus_workers") == 1
    assert not any(name.startswith(("pgbus_listener_", "pgbus_outbox_")) for name, _ in others)


async def test_a_process_is_ready_while_its_worker_works(database: str, connection: asyncpg.Connection) -> None:
    async with open_bus(database) as bus:
        app = MonitoringApp(bus, has_worker=True)
        async with client_of(app) as client:
            before = await client.get("/readyz")
            alive = await client.get("/livez")
            async with running(bus) as worker:
                during = await client.get("/readyz")
                worker.request_stop()
                stopping = await client.get("/readyz")
            after = await client.get("/readyz")
    assert (before.status_code, before.text) == (503, "not ready: no worker runs in this process\n")
    assert (alive.status_code, alive.text) == (200, "alive\n")
    assert (during.status_code, during.text) == (200, "ready\n")
    assert (stopping.status_code, stopping.text) == (503, "not ready: the worker is stopping\n")
    assert after.status_code == 503


async def test_a_process_whose_session_is_lost_is_not_ready(database: str, connection: asyncpg.Connection) -> None:
    async with open_bus(database) as bus:
        watch = Watch(bus)
        async with running(bus), client_of(MonitoringApp(bus, has_worker=True)) as client:
            name = await connection.fetchval("SELECT current_database()")
            elsewhere = await asyncpg.connect(database, database="postgres")
            await elsewhere.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")  # else it is soon back
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await watch.first(SessionLost)
            response = await client.get("/readyz")
            await elsewhere.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            await elsewhere.close()
    assert response.status_code == 503
    assert "session" in response.text


async def test_a_web_process_without_a_worker_is_ready_if_the_database_is_there(database: str) -> None:
    async with open_bus(database) as bus, client_of(MonitoringApp(bus)) as client:
        assert (await client.get("/readyz")).status_code == 200
    async with open_bus("postgresql://nobody@127.0.0.1:1/x") as bus, client_of(MonitoringApp(bus)) as client:
        response = await client.get("/readyz")
    assert response.status_code == 503
    assert "127.0.0.1" in response.text


async def test_the_app_can_be_mounted_and_says_what_there_is(database: str) -> None:
    async with open_bus(database) as bus:
        app = Starlette(routes=[Mount("/ops", app=MonitoringApp(bus))])
        async with client_of(app) as client:
            assert (await client.get("/ops/livez")).status_code == 200
            assert "pgbus_leader 0.0" in (await client.get("/ops/metrics")).text
            missing = await client.get("/ops/nothing")
            refused = await client.post("/ops/metrics")
            head = await client.head("/ops/metrics")
            modern = await client.get("/ops/metrics", headers={"accept": "application/openmetrics-text"})
    assert (missing.status_code, missing.text) == (404, "there are /metrics, /livez, /readyz, /wake\n")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    assert (head.status_code, head.text) == (200, "")
    assert modern.text.endswith("# EOF\n")


async def test_a_failed_read_of_the_database_is_counted_and_shows_no_old_values(
    database: str, connection: asyncpg.Connection
) -> None:
    async with open_bus(database) as bus:
        app = MonitoringApp(bus)
        watch = Watch(bus)
        async with running(bus), client_of(app) as client:
            await watch.first(LeaderChanged)
            await connection.execute("ALTER VIEW pgbus.listener_lag RENAME TO gone")
            found = await samples_of(client)
            await connection.execute("ALTER VIEW pgbus.gone RENAME TO listener_lag")
    assert found["pgbus_failed_database_reads_total", ()] == 1
    assert not any(name.startswith("pgbus_outbox_") for name, _ in found)


async def test_serving_refuses_an_address_that_is_taken(database: str) -> None:
    async with open_bus(database) as bus, serving(bus, "127.0.0.1", 0) as port:
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"http://127.0.0.1:{port}/livez")).text == "alive\n"
        with pytest.raises(ConfigurationError, match=f"port {port}: "):
            async with serving(pgbus.create(database), "127.0.0.1", port):
                pass


BUS = """
import pgbus

bus = pgbus.create(service_name="shop")

@bus.listener("orders.*", name="mailer")
async def mailer(event: dict) -> None:
    pass
"""


async def address_of(program: Talking) -> str:
    [line, *_] = await program.says(r"http://127\.0\.0\.1:\d+")
    found = re.search(r"http://127\.0\.0\.1:\d+", line)
    assert found
    return found[0]


async def test_pgbus_run_serves_metrics_and_probes_beside_its_worker(database: str, tmp_path: Path) -> None:
    (tmp_path / "bus.py").write_text(BUS)
    arguments = ("run", "--http", "127.0.0.1:0")
    async with talking(*arguments, cwd=tmp_path, environ={"PGBUS_DSN": database}) as program:
        address = await address_of(program)
        async with httpx.AsyncClient(base_url=address) as client:

            async def is_ready() -> bool:
                return (await client.get("/readyz")).status_code == 200

            await eventually(is_ready, PATIENCE)

            async def leads() -> bool:
                return ("pgbus_leader", ()) in (found := await samples_of(client)) and found["pgbus_leader", ()] == 1

            await eventually(leads, PATIENCE)
            found = await samples_of(client)
        assert found["pgbus_listener_info", tuple(
            sorted({"listener_name": "mailer", "service": "shop", "owner": "", "state": "active"}.items())
        )] == 1  # fmt: skip
