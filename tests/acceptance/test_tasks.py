"""Scheduled and background work in real worker processes."""

from __future__ import annotations

import itertools
import os
import re
import signal
from contextlib import AsyncExitStack
from datetime import timedelta

import asyncpg
import pytest

from tests.support import eventually
from tests.support.programs import PROGRAM
from tests.support.services import Services
from tests.support.waiting import PATIENCE

SECONDS = """
import pgbus

bus = pgbus.create()


@bus.client.every(seconds=1, name="tick")
def tick():
    pass
"""

SCHEDULING = """
import asyncio
import sys

import pgbus
import schedule

bus = pgbus.create()


def say(text):
    sys.stdout.write(f"{text}\\n")
    sys.stdout.flush()


@bus.client.every(seconds=1)
def each_second():
    say("each second")


@bus.client.schedule(schedule.every(1).to(3).seconds)
async def now_and_then(client):
    say(f"now and then, {client is bus.client}")


async def forever():
    while True:
        say("in the background")
        await asyncio.sleep(1)


@bus.client.on_start()
def on_start(client):
    client.add_background_task(forever())
    client.listen_for_event("shop", "sold", sold, "note")


def sold(event, number):
    say(f"sold {number}")
"""

LONG = """
import asyncio
import os

import pgbus

bus = pgbus.create()


@bus.client.every(hours=1, also_run_immediately=True, name="long")
async def long(run: pgbus.TaskContext):
    await bus.publish({"pid": os.getpid()}, topic="task.begun")
    if run.attempt == 1:
        await asyncio.Event().wait()
"""


async def runs(services: Services, name: str) -> list[asyncpg.Record]:
    rows: list[asyncpg.Record] = await services.connection.fetch(
        "SELECT * FROM pgbus.schedule_history WHERE schedule_name = $1 ORDER BY started_at", name
    )
    return rows


async def test_three_workers_run_a_task_once_per_interval(services: Services) -> None:
    """N18"""
    directory = services.write("ticking", SECONDS)
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(services.worker(directory))

        async def ran_five_times() -> bool:
            return len([run for run in await runs(services, "ticking-tick") if run["outcome"] == "done"]) >= 5

        await eventually(ran_five_times, PATIENCE)
        # Before a worker stops, which cancels a run that it claims just then; the last one may be under way.
        found = [run for run in await runs(services, "ticking-tick") if run["finished_at"]]
    assert all(run["outcome"] == "done" and run["attempt"] == 1 for run in found)
    for before, after in itertools.pairwise(found):
        assert before["finished_at"] <= after["started_at"]
        assert after["due_at"] - before["due_at"] >= timedelta(seconds=1)


async def test_intervals_random_intervals_and_background_tasks_run_beside_listeners(services: Services) -> None:
    """S10"""
    directory = services.write("scheduling", SCHEDULING)
    async with (
        services.worker(directory, "--only", "tasks") as tasks,
        services.worker(directory, "--skip", "tasks") as events,
    ):
        await tasks.says("^each second$", times=3)
        await tasks.says("^now and then, True$", times=2)
        await tasks.says("^in the background$", times=2)
        services.run_code(directory, "from bus import bus; bus.publish_sync({'number': 1}, topic='shop.sold')")
        await events.says("^sold 1$")
        assert [line for line in events.out if line != "sold 1"] == []
        assert "sold 1" not in tasks.out
        assert not any("Traceback" in line for line in [*tasks.err, *events.err])


@pytest.mark.parametrize(
    ("features", "options", "environ", "does"),
    [
        (["events"], [], {}, "events"),
        (["tasks"], [], {}, "tasks"),
        (None, [], {"PGBUS_FEATURES": "tasks"}, "tasks"),
        (None, ["--only", "events"], {"PGBUS_FEATURES": "tasks"}, "events"),
        (["tasks"], ["--only", "events,rpcs,tasks", "--skip", "rpcs,tasks"], {}, "events"),
    ],
)
async def test_a_worker_does_what_its_features_say(
    services: Services, features: list[str] | None, options: list[str], environ: dict[str, str], does: str
) -> None:
    """N11"""
    source = SCHEDULING.replace("pgbus.create()", f"pgbus.create(features={features})")
    directory = services.write("features", source)
    async with services.worker(directory, *options, **environ) as worker:
        services.run_code(directory, "from bus import bus; bus.publish_sync({'number': 1}, topic='shop.sold')")
        await worker.says("^sold 1$" if does == "events" else "^each second$")
    assert ("sold 1" in worker.out) == (does == "events")
    assert any(re.match("each|now|in the", line) for line in worker.out) == (does == "tasks")
    listeners = await services.connection.fetchval("SELECT count(*) FROM pgbus.listeners")
    assert (listeners == 1) == (does == "events")


@pytest.mark.parametrize("options", [["--only", "evnets"], ["--skip", "events,evnets"]])
async def test_a_feature_that_there_is_not_ends_the_program_with_2(services: Services, options: list[str]) -> None:
    directory = services.write("features", SECONDS)
    done = services.command(directory, "run", *options)
    assert done.returncode == 2
    assert "evnets" in done.stderr


async def test_a_run_whose_worker_is_killed_is_taken_over_by_another(services: Services) -> None:
    directory = services.write("long", LONG)
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(services.process(PROGRAM, "run", cwd=directory, PGBUS_POLL_INTERVAL="0.5"))

        async def begun() -> int | None:
            query = """SELECT w.pid FROM pgbus.schedules AS s JOIN pgbus.workers AS w ON w.id = s.worker_id
                       WHERE EXISTS (SELECT FROM pgbus.events WHERE topic = 'task.begun')"""
            pid: int | None = await services.connection.fetchval(query)
            return pid

        pid = await eventually(begun, PATIENCE)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

        async def taken_over() -> bool:
            return [run["outcome"] for run in await runs(services, "long-long")] == ["lost", "done"]

        await eventually(taken_over, PATIENCE)
    first, second = await runs(services, "long-long")
    assert (first["attempt"], second["attempt"]) == (1, 2)
    assert first["due_at"] == second["due_at"]
    assert first["finished_at"] <= second["started_at"]
    assert first["worker"] != second["worker"]
