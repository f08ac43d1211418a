"""`kill -9`: whoever dies, its events are handled, and nothing that was never committed is."""

from __future__ import annotations

import random

import pytest

from tests.chaos.publishers import Load
from tests.chaos.stage import SOAK, Stage
from tests.support import eventually


@pytest.mark.parametrize("victim_leads", [False, True], ids=["follower", "leader"])
async def test_another_worker_takes_over_from_a_killed_one_within_seconds(stage: Stage, victim_leads: bool) -> None:
    await stage.close_gate()
    if not victim_leads:
        await stage.start_idle()
    victim = await stage.start("gated")
    await stage.publish("chaos.gated", range(40))
    await stage.publish_rolled_back("chaos.gated", range(1000, 1020))
    await stage.wait_for("started", 5)
    assert (await eventually(stage.leader_pid) == victim.pid) is victim_leads
    heir = await stage.start("gated")
    await stage.registered(heir)

    expires_at = await stage.value("SELECT min(lease_expires_at) FROM pgbus.deliveries")
    await victim.kill()
    await stage.open_gate()
    await stage.wait_for("handled", 40)
    await stage.settled()

    in_time = "SELECT max(at) < $1 FROM handled"
    assert await stage.value(in_time, expires_at), "a claim waited for its lease and not for its lock"
    assert set(await stage.numbers("handled")) == set(range(40))
    assert await stage.dead_letters() == []


async def test_a_new_leader_takes_over_within_seconds(stage: Stage) -> None:
    leader = await stage.start_idle()
    await stage.start("record")
    await stage.publish("chaos.recorded", [1])
    await stage.wait_for("handled", 1)
    assert await stage.leader_pid() == leader.pid

    await leader.kill()
    await stage.publish("chaos.recorded", [2])
    await stage.wait_for("handled", 2)


async def test_a_transactional_handler_takes_effect_once_whatever_is_killed(stage: Stage) -> None:
    kills = 60 * SOAK or 4
    chance = random.Random(kills)
    events = 150 * kills
    await stage.publish("chaos.effect", range(events))
    for _ in range(kills):
        worker = await stage.start("effect")
        # Somewhere in the middle of its work: after so many effects, which may be in the middle of a transaction.
        goal = await stage.count("effects") + chance.randint(1, 120)
        await stage.wait_for("effects", min(goal, events))
        await worker.kill()
    await stage.start("effect")
    # What was in the hands of two that died is suspected, and handled one at a time.
    await stage.wait_for("effects", events, timeout=120 + events / 20)
    await stage.settled()

    assert await stage.numbers("effects") == list(range(events))
    assert await stage.dead_letters() == []
    once = "SELECT count(*) = $1 AND count(DISTINCT position) = $1 FROM pgbus.attempts WHERE outcome = 'done'"
    assert await stage.value(once, events)


async def test_two_workers_and_a_leader_killed_in_turn_under_load_lose_nothing(stage: Stage) -> None:
    rounds = 10 * SOAK or 2
    load = Load(stage, "chaos.recorded", "handled", publishers=2)
    leader = await stage.start_idle()
    team = [leader, await stage.start("record"), await stage.start("record")]
    for turn in range(3 * rounds):
        place = turn % 3
        await stage.wait_for("handled", await stage.count("handled") + 50)
        await team[place].kill()
        team[place] = await (stage.start("record") if place else stage.start_idle())
    await load.stop()

    await stage.settled()
    assert load.errors == []
    assert set(await stage.numbers("handled")) == load.published
    assert await stage.dead_letters() == []
