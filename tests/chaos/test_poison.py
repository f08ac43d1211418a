"""An event that kills the process that handles it."""

from __future__ import annotations

import asyncio

from tests.chaos.stage import SOAK, Stage


async def test_an_event_that_kills_workers_becomes_a_dead_letter_alone(stage: Stage) -> None:
    size = 300 * SOAK or 60
    poison = size // 3
    events = [{"n": n, "poison": int(n == poison)} for n in range(size)]
    await stage.bus.publish_many(events, topic="chaos.poisoned")
    done = asyncio.Event()
    restarts = 0

    async def keep_alive() -> None:
        nonlocal restarts
        while not done.is_set():
            worker = await stage.start("poisoned", "bystander")
            waiting = [asyncio.create_task(worker.ended(60)), asyncio.create_task(done.wait())]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            restarts += 1
            await worker.kill()
            for one in waiting:
                one.cancel()

    supervisor = asyncio.create_task(keep_alive())
    try:
        await stage.wait_for("handled", size - 1)
        # The bystander hears the same events; its own poison handling does not kill.
        await stage.wait_for("effects", size)
        await stage.settled()
    finally:
        done.set()
        await supervisor

    assert set(await stage.numbers("handled")) == set(range(size)) - {poison}
    assert set(await stage.numbers("effects")) == set(range(size))
    assert await stage.dead_letters() == [("poisoned", poison)]
    assert restarts >= 5
