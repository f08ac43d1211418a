"""The checker of chaos runs finds each thing that it looks for, planted one at a time in a run that is right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.chaos.checker import LAWS, judge
from tests.chaos.workload import LISTENERS, TABLES, TOPIC
from tests.support.rows import Rows

EVENTS = (1, 2, 97)  # the listener `failing` gives the last one up


class Run:
    """A run of three events, all of one key, handled by every listener, and of one call."""

    def __init__(self, rows: Rows, directory: Path) -> None:
        self.connection = rows.connection
        self._rows = rows
        self._calls = directory / "calls-1.jsonl"
        self.lines: list[list[object]] = [[5, "begun", None], [5, "answered", 10]]

    async def sql(self, query: str, *values: object) -> list[Any]:
        return list(await self.connection.fetch(query, *values))

    def calls_files(self) -> list[Path]:
        self._calls.write_text("".join(json.dumps(line) + "\n" for line in self.lines))
        return [self._calls]

    async def play(self) -> None:
        for statement in TABLES.strip().split(";\n")[:-1]:  # the last is for a role of the runs
            await self.connection.execute(statement)
        await self.connection.execute("INSERT INTO served (n, pid) VALUES (5, 1)")
        for serial, number in enumerate(EVENTS, start=1):
            await self._rows.event(serial, TOPIC, {"n": number}, key="k")
            await self.connection.execute("INSERT INTO placed VALUES ($1, 'k', $2)", number, serial)
        for listener in LISTENERS:
            listener_id = await self._rows.listener(listener, TOPIC)
            for serial, number in enumerate(EVENTS, start=1):
                if (listener, number) == ("failing", 97):
                    await self._rows.dead_letter(listener_id, serial)
                    continue
                await self.connection.execute(
                    "INSERT INTO handled (listener, n, pid) VALUES ($1, $2, 1)", listener, number
                )
                await self._rows.attempt(listener_id, serial)


@pytest.fixture
async def run(rows: Rows, tmp_path: Path) -> Run:
    made = Run(rows, tmp_path)
    await made.play()
    return made


async def test_a_run_that_is_right_breaks_no_law(run: Run) -> None:
    verdict = await judge(run)
    assert verdict.broken == {}
    assert (verdict.committed, verdict.deliveries, verdict.dead_letters, verdict.calls) == (3, 17, 1, {"answered": 1})
    assert set(verdict.duplicates.values()) == {0}


OF_PLAIN = "(SELECT id FROM pgbus.listeners WHERE listener_name = 'plain')"
DONE_AGAIN = f"""
INSERT INTO pgbus.history (first, listener_id, attempt, outcome, started_at, duration, worker)
VALUES (1, {OF_PLAIN}, 2, 'done', clock_timestamp(), 0, 'w')
"""
OWED = f"INSERT INTO pgbus.deliveries (listener_id, first, last, events) VALUES ({OF_PLAIN}, 1, 1, 1)"
LOST = "DELETE FROM handled WHERE listener = 'plain' AND n = 2"
TWICE = "INSERT INTO handled (listener, n, pid) VALUES ('exact', 1, 1)"
RUN = """
INSERT INTO pgbus.schedule_runs (run_id, schedule_name, due_at, attempt, worker, started_at, finished_at, outcome)
VALUES (gen_random_uuid(), 'tick', '2030-01-01', 1, 'w', now(), now(), 'done')
"""
PLANTED = {
    "a committed event was not handled": LOST,
    "an event was handled that was never committed": "DELETE FROM placed WHERE n = 1",
    "a transactional listener took effect more than once": TWICE,
    "an event of a key was handled before an earlier one": "UPDATE placed SET serial = 10 - serial",
    "an event is a dead letter, and its handler did not give it up": (
        f"UPDATE pgbus.dead_letters SET listener_id = {OF_PLAIN}"
    ),
    "an event that its handler gave up is no dead letter": "DELETE FROM pgbus.dead_letters",
    "the history does not have an event as done once": DONE_AGAIN,
    "the history has an event as done that nobody handled": LOST,
    "something is still owed or claimed": OWED,
    "a listener lags": "UPDATE pgbus.listeners SET cursor = 1 WHERE listener_name = 'plain'",
    "a run of a schedule is done, and its task did not run": RUN,
    "a schedule's time was done twice": f"{RUN}; {RUN}",
    "a call was executed more than once": "INSERT INTO served (n, pid) VALUES (5, 2)",
}  # fmt: skip


@pytest.mark.parametrize("law", LAWS)
async def test_a_broken_law_is_found(run: Run, law: str) -> None:
    await run.connection.execute(PLANTED[law])
    assert law in (await judge(run)).broken


@pytest.mark.parametrize(
    ("law", "lines"),
    [
        ("a call has no ending", [[5, "begun", None]]),
        ("a call has more than one ending", [[5, "begun", None], [5, "failed", "x"], [5, "answered", 10]]),
        ("a call hangs beyond its timeout", [[5, "begun", None], [5, "hung", None]]),
        ("a call got the answer to another", [[5, "begun", None], [5, "answered", 12]]),
    ],
)
async def test_a_call_that_went_wrong_is_found(run: Run, law: str, lines: Sequence[list[object]]) -> None:
    run.lines = list(lines)
    assert law in (await judge(run)).broken


async def test_what_is_shown_are_rows_that_broke_the_law(run: Run, connection: asyncpg.Connection) -> None:
    await connection.execute(LOST)
    assert (await judge(run)).broken["a committed event was not handled"] == "1: plain, 2"
