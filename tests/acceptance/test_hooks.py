"""N6: SIGTERM while something runs: it completes, it counts, `on_stop` runs, and the worker exits with 0."""

from __future__ import annotations

import signal
import sys

import pytest

from tests.support.programs import PROGRAM
from tests.support.services import Services
from tests.support.workers import open_bus

WORKER = """
import asyncio
import pathlib
import sys
import time

import pgbus

bus = pgbus.create()
DRAINING = pathlib.Path("draining")


def say(text):
    sys.stdout.write(text + "\\n")
    sys.stdout.flush()


async def work_async(**arguments):
    say("begun")
    while not DRAINING.exists():
        await asyncio.sleep(0.01)
    say("completed")
    return "done"


def work_plain(**arguments):
    say("begun")
    while not DRAINING.exists():
        time.sleep(0.01)
    say("completed")
    return "done"


@bus.client.on_stop()
async def publish_that_we_stop(client):
    await bus.publish({}, topic="worker.stopped")
    say("on_stop, async")


@bus.client.on_stop()
def fail():
    raise ValueError("one stop hook fails")


@bus.client.on_stop()
def and_plain():
    say("on_stop, plain")


"""
LISTENING = "bus.jobs.started.listen(work_{kind}, listener_name='work')\n"
SERVING = "bus.procedure('jobs.run')(work_{kind})\n"


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_a_handler_running_at_sigterm_is_settled_before_on_stop_runs(services: Services, kind: str) -> None:
    worker = services.write("worker", WORKER + LISTENING.format(kind=kind))
    client = services.write("client", "import pgbus\nbus = pgbus.create()\n")
    async with services.worker(worker) as running:
        services.run_code(
            client, "from bus import bus\nbus.publish_sync({'id': 1}, topic='jobs.started'); bus.close_sync()"
        )
        await running.says("begun")
        running.child.send_signal(signal.SIGTERM)
        (worker / "draining").touch()
        assert await running.ends() == 0
    assert running.out == ["begun", "completed", "on_stop, async", "on_stop, plain"]
    assert any("one stop hook fails" in line for line in running.err)
    [settled] = await services.connection.fetch("SELECT attempt, outcome FROM pgbus.attempts")
    assert tuple(settled) == (1, "done")
    assert await services.connection.fetchval("SELECT count(*) FROM pgbus.deliveries") == 0
    assert await services.connection.fetchval("SELECT count(*) FROM pgbus.outbox WHERE topic = 'worker.stopped'") == 1


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_a_call_under_way_at_sigterm_is_answered_before_on_stop_runs(services: Services, kind: str) -> None:
    worker = services.write("worker", WORKER + SERVING.format(kind=kind))
    caller = services.write(
        "caller",
        "import pgbus\nbus = pgbus.create()\nprint(bus.jobs.run(id=1, bus_options={'timeout': 60, 'wait': True}))\n",
    )
    async with services.worker(worker) as running, services.process(sys.executable, "bus.py", cwd=caller) as calling:
        await running.says("begun")
        running.child.send_signal(signal.SIGTERM)
        (worker / "draining").touch()
        assert await running.ends() == 0
        assert await calling.line() == "done"
        assert await calling.ends() == 0
    assert running.out == ["begun", "completed", "on_stop, async", "on_stop, plain"]


async def test_sigterm_runs_on_stop_of_an_idle_worker_and_a_failed_start_hook_ends_it(services: Services) -> None:
    worker = services.write("worker", WORKER)
    async with services.worker(worker) as running:
        running.child.send_signal(signal.SIGTERM)
        assert await running.ends() == 0
    assert running.out == ["on_stop, async", "on_stop, plain"]

    broken = services.write("broken", WORKER + "@bus.client.on_start()\ndef no():\n    raise ValueError('not today')\n")
    async with services.process(PROGRAM, "run", cwd=broken) as failing:
        assert await failing.ends() not in (0, None)
    assert failing.out == []
    assert any("not today" in line for line in failing.err)


HANGING = {
    "async": "async def hang():\n    say('hanging')\n    await asyncio.Event().wait()\n",
    "plain": "def hang():\n    say('hanging')\n    time.sleep(1000)\n",
}


@pytest.mark.parametrize("kind", HANGING)
async def test_a_second_signal_ends_a_worker_whose_stop_hook_hangs(services: Services, kind: str) -> None:
    hanging = services.write("stuck", WORKER + "@bus.client.on_stop()\n" + HANGING[kind])
    async with services.worker(hanging) as running:
        running.child.send_signal(signal.SIGTERM)
        await running.says("hanging")
        running.child.send_signal(signal.SIGTERM)
        assert await running.ends() == 0


DJANGO = """
import os
import sys

import django
import psycopg
from django.conf import settings

parts = psycopg.conninfo.conninfo_to_dict(os.environ["PGBUS_DSN"])
settings.configure(DATABASES={"default": {
    "ENGINE": "django.db.backends.postgresql", "NAME": parts["dbname"], "USER": parts.get("user", ""),
    "PASSWORD": parts.get("password", ""), "HOST": parts.get("host", ""), "PORT": parts.get("port", ""),
    "CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True,
}})
django.setup()

from django.db import close_old_connections, connection

import pgbus

bus = pgbus.create()


@bus.middleware
def keep_connections_fresh(context, call_next):
    close_old_connections()
    try:
        return call_next()
    finally:
        close_old_connections()


@bus.listener("jobs.started", name="work", concurrency=1, retry=1)
def work(event):
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        [backend] = cursor.fetchone()
    sys.stdout.write(f"{backend}\\n")
    sys.stdout.flush()
"""


async def test_middleware_keeps_the_connections_of_django_fresh(services: Services) -> None:
    """S8: the second event finds that its thread's connection was closed by the server, and gets another one."""
    directory = services.write("django_worker", DJANGO)
    async with services.worker(directory) as worker, open_bus(services.dsn) as bus:
        await bus.publish({}, topic="jobs.started")
        first = int(await worker.line())
        assert await services.connection.fetchval("SELECT pg_terminate_backend($1, 20000)", first)
        await bus.publish({}, topic="jobs.started")
        assert int(await worker.line()) != first
    assert await services.dead_errors() == []
