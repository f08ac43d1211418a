"""The clock of a worker's machine jumps; the database's decides."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from tests.chaos.faults import DIED, fault
from tests.chaos.rights import faketime
from tests.chaos.world import World


@fault(
    "a worker's clock jumps by hours, ahead and back", goal=DIED,
    lacks=lambda: None if faketime() else "needs libfaketime",
)  # fmt: skip
async def jump(world: World) -> AsyncIterator[None]:
    clock = world.directory / f"clock-{len(world.team) + len(world.spent)}"
    clock.write_text("+0")
    await world.start_worker(
        LD_PRELOAD=str(faketime()), FAKETIME_TIMESTAMP_FILE=str(clock), FAKETIME_CACHE_DURATION="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1", DONT_FAKE_MONOTONIC="1",
    )  # fmt: skip
    worker = world.team[-1]
    await _set(clock, "+7200")
    yield
    await asyncio.sleep(3)
    await _set(clock, "-7200")
    await asyncio.sleep(3)
    await world.replace(worker)


async def _set(clock: object, offset: str) -> None:
    """Replace the file in one step: a reader of half a number would see no time at all."""
    new = f"{clock}.new"
    with open(new, "w") as file:  # noqa: PTH123 - renamed below
        file.write(offset)
    os.replace(new, str(clock))  # noqa: PTH105 - the same
