"""Five services, a request after another, and `kill -9` all the while: each request has one whole tree."""

from __future__ import annotations

import random

import pytest

import pgbus
from tests.chaos.stage import SOAK, Stage
from tests.support.waiting import PATIENCE, eventually

# Those of tree_service, which creates a bus when it is imported.
STEPS = ("ordered", "reserved", "charged", "packed", "sent")
TOPICS = [*(f"tree.{step}" for step in STEPS), "tree.done"]
ORPHANS = """
SELECT count(*) FROM pgbus.causes AS c
WHERE c.causation_id IS NOT NULL AND NOT EXISTS (SELECT FROM pgbus.events AS e WHERE e.event_id = c.causation_id)
"""
DONE = "SELECT count(*) FROM pgbus.events WHERE topic = 'tree.done'"


@pytest.mark.timeout(7200 * SOAK or 600)
async def test_each_request_has_one_whole_tree_whoever_is_killed(stage: Stage) -> None:
    kills = 250 * SOAK or 3
    groups = [[step] for step in STEPS] if SOAK else [list(STEPS[::2]), list(STEPS[1::2])]
    chance = random.Random(kills)
    workers = [await stage.start(*group, module="tests.chaos.tree_service") for group in groups]
    requests = 0
    for _ in range(kills):
        for _ in range(20):
            await _request(stage, requests)
            requests += 1
        # Somewhere in the middle of its work: all but so many requests have come to their end.
        await _come_to_their_end(stage, requests - chance.randint(1, 19))
        victim = chance.randrange(len(workers))
        await workers[victim].kill()
        workers[victim] = await stage.start(*groups[victim], module="tests.chaos.tree_service")
    await _come_to_their_end(stage, requests)
    await stage.settled()

    assert await stage.value(ORPHANS) == 0
    for number in range(requests):
        rows = await stage.connection.fetch("SELECT depth, name FROM pgbus.correlation_tree($1)", f"request-{number}")
        assert [tuple(row) for row in rows] == list(enumerate(TOPICS))


async def _request(stage: Stage, number: int) -> None:
    with pgbus.caused_by(pgbus.Cause.of_request({"x-correlation-id": f"request-{number}"})):
        await stage.bus.publish({"n": number}, topic=TOPICS[0])


async def _come_to_their_end(stage: Stage, count: int) -> None:
    async def have() -> bool:
        return int(await stage.connection.fetchval(DONE)) >= count

    await eventually(have, 2 * PATIENCE, message=f"{count} requests did not come to their end")
