"""A leader that freezes, or is killed, while the bus sleeps: another one leads when an event wakes it."""

from __future__ import annotations

import signal
import time
from typing import Any

from tests.chaos.stage import Stage, WorkerProcess
from tests.support import eventually
from tests.support.waiting import PATIENCE

# Seconds until the bus sleeps, in place of ten; and for which a leader that is awake may be silent: one that is woken
# when it is about to be frozen holds the lock for so long.
SETTINGS: dict[str, Any] = {"CHAOS_QUIET": 1, "CHAOS_SILENCE": "5s"}


async def test_an_event_finds_another_leader_when_the_one_that_slept_is_frozen_or_dead(stage: Stage) -> None:
    first = await stage.start("record", **SETTINGS)
    await _until_told(stage, first)
    second = await stage.start("record", **SETTINGS)
    await stage.registered(second)

    await _freeze_asleep(stage, first)
    began = time.monotonic()
    await stage.publish("chaos.recorded", [0])
    await _until_told(stage, second)
    await stage.wait_for("handled", 1)
    print(f"{time.monotonic() - began:.2f} s without a leader")  # noqa: T201 - the measured figure: 0.6 to 1

    await eventually(lambda: _sleeps(stage), PATIENCE)
    await second.kill()
    # It finds a bus that sleeps, and a leader's session that is gone.
    third = await stage.start("record")  # which stays awake
    await stage.publish("chaos.recorded", [1])
    await stage.wait_for("handled", 2)
    await stage.until_leads(third)

    first.signal(signal.SIGCONT)
    await eventually(lambda: "another worker leads" in first.log or "no longer leading" in first.log, PATIENCE)
    await stage.publish("chaos.recorded", [2])
    await stage.settled()
    assert await stage.numbers("handled") == [0, 1, 2]
    assert await stage.leader_pid() == third.pid


async def _freeze_asleep(stage: Stage, worker: WorkerProcess) -> None:
    """Freeze the worker while the bus sleeps: what others still had to say may wake it before the signal arrives."""
    while True:
        await eventually(lambda: _sleeps(stage), PATIENCE)
        worker.signal(signal.SIGSTOP)
        if await _sleeps(stage):
            return
        worker.signal(signal.SIGCONT)


async def _sleeps(stage: Stage) -> bool:
    is_asleep = await stage.value("SELECT bool_or(is_asleep) FROM pgbus.live_workers")
    return is_asleep is True and await stage.leader_pid() is None  # nobody holds the lock


async def _until_told(stage: Stage, worker: WorkerProcess) -> None:
    """Wait until the worker has said that it leads, which stays there while the bus sleeps, and nobody has the lock."""
    told = "SELECT EXISTS (SELECT FROM pgbus.workers WHERE pid = $1 AND leading_since IS NOT NULL)"
    await eventually(lambda: stage.value(told, worker.pid), PATIENCE)
