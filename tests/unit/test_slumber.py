"""One worker's part in the sleep of the bus: what lets it sleep, and what wakes it."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest

from pgbus.leader import slumber
from pgbus.leader.slumber import Slumber
from tests.support.waiting import PATIENCE

LONG = 3600.0


class HostClock:
    """The clock of a host that can be suspended: it goes on meanwhile, and the event loop's does not."""

    def __init__(self) -> None:
        self.jump = 0.0

    def time(self) -> float:
        return time.time() + self.jump


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HostClock:
    clock = HostClock()
    monkeypatch.setattr(slumber, "time", SimpleNamespace(time=clock.time))
    monkeypatch.setattr(slumber, "CLOCK_INTERVAL", 0.01)
    return clock


def asleep(seconds: float = LONG) -> tuple[Slumber, asyncio.Event]:
    """One that sleeps, and an event that is set when it wakes."""
    woken = asyncio.Event()
    sleeping = Slumber(waking=woken.set)
    sleeping.lie_down()
    sleeping.fall_asleep(seconds)
    assert sleeping.is_asleep
    return sleeping, woken


async def test_an_instant_that_passed_while_the_host_was_suspended_wakes_it(clock: HostClock) -> None:
    sleeping, woken = asleep()
    clock.jump = LONG
    async with asyncio.timeout(PATIENCE):
        await woken.wait()
    assert not sleeping.is_asleep
    assert sleeping.awake.is_set()


async def test_a_clock_that_is_set_back_does_not_prolong_the_sleep(clock: HostClock) -> None:
    sleeping, woken = asleep(0.05)
    clock.jump = -LONG
    async with asyncio.timeout(PATIENCE):
        await woken.wait()
    assert not sleeping.is_asleep


async def test_who_hears_something_after_the_leader_dozes_stays_awake() -> None:
    woken = asyncio.Event()
    sleeping = Slumber(waking=woken.set)
    sleeping.lie_down()
    sleeping.stir()
    sleeping.fall_asleep(LONG)
    assert not sleeping.is_asleep
    assert woken.is_set()


async def test_who_has_heard_of_no_dozing_leader_does_not_fall_asleep() -> None:
    sleeping = Slumber(waking=lambda: None)
    sleeping.fall_asleep(LONG)
    assert not sleeping.is_asleep


async def test_who_hears_no_more_of_a_leader_that_dozes_wakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slumber, "DOZE_LIMIT", 0.01)
    woken = asyncio.Event()
    sleeping = Slumber(waking=woken.set)
    sleeping.lie_down()
    assert sleeping.up_for == 0
    async with asyncio.timeout(PATIENCE):
        await woken.wait()
    assert not sleeping.lying.is_set()


async def test_a_worker_that_ends_has_no_alarm_left(clock: HostClock) -> None:
    sleeping, woken = asleep()
    sleeping.close()
    clock.jump = LONG
    # Its alarm would be the first to ring.
    later = asyncio.Event()
    asyncio.get_running_loop().call_later(2 * slumber.CLOCK_INTERVAL, later.set)
    await later.wait()
    assert not woken.is_set()
