"""A chaos run: faults drawn from a seed, one after another under load, and a verdict at the end."""

from __future__ import annotations

import asyncio
import random
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.chaos.checker import STALL, Verdict, come_to_rest, judge
from tests.chaos.faults import Fault
from tests.chaos.workload import LISTENERS
from tests.chaos.world import World
from tests.support import eventually

PATIENCE = 45.0
"""Seconds after which the bus is said not to go on."""
REST = 300.0
"""Seconds in the end after which the checker says what is not handled."""
CALM = 2.0
"""Seconds between two faults."""
_GOES_ON = """
SELECT h.listener, extract(epoch FROM min(h.at) - $1)::float8 AS after
FROM handled AS h JOIN placed AS p USING (n)
WHERE h.at > $1 AND p.at > $1
GROUP BY h.listener
"""
_CAUGHT_UP = """
SELECT greatest(extract(epoch FROM max(f.at) - $2), 0)::float8
FROM placed AS p
CROSS JOIN LATERAL (
    SELECT h.listener, min(h.at) AS at FROM handled AS h WHERE h.n = p.n AND h.listener <> 'failing' GROUP BY h.listener
) AS f
WHERE p.at BETWEEN $1 AND $2
"""


@dataclass
class Episode:
    """One fault of a run; times in seconds."""

    fault: Fault
    began_at: datetime
    marked_at: datetime | None = None
    """Since when its recovery counts."""
    ended_at: datetime | None = None
    recovery: float | None = None
    """Until every listener had handled an event that was published after the mark; None if it did not."""
    last: str | None = None
    """The listener that was the last to go on."""
    caught_up: float | None = None
    """Until everything was handled that was published before the mark."""
    stall: float | None = None
    """The longest that an event of this episode waited for a listener."""
    findings: list[str] = field(default_factory=list)

    @property
    def is_met(self) -> bool:
        return self.recovery is not None and self.recovery <= self.fault.goal and not self.findings


@dataclass
class Result:
    """All that a run has found."""

    seed: int
    seconds: float
    episodes: list[Episode]
    verdict: Verdict
    skipped: dict[str, str]
    """The faults that cannot be injected on this machine, and why."""
    server_version: str


async def run(
    faults: Sequence[Fault],
    *,
    seed: int,
    directory: Path,
    seconds: float,
    rate: float = 20.0,
    say: Callable[[str], None] = lambda _: None,
) -> Result:
    """Inject faults for this long, or each of them once if `seconds` is 0."""
    possible = [fault for fault in faults if fault.lacks() is None]
    began = time.monotonic()
    async with World(directory, seed=seed, rate=rate) as world:
        await _goes_on(world, datetime.now(UTC))
        episodes = []
        for fault in _drawn(possible, seed=seed, once=not seconds):
            if seconds and time.monotonic() - began > seconds:
                break
            say(f"{fault.name} ..")
            episodes.append(episode := await _play(world, fault))
            say(f"    {_line(episode)}")
            await asyncio.sleep(CALM)
        await world.stop_load()
        await come_to_rest(world, timeout=REST)
        for episode in episodes:
            await _measure(world, episode)
        verdict = await judge(world)
        version = await world.value("SHOW server_version")
    skipped = {fault.name: reason for fault in faults if (reason := fault.lacks())}
    return Result(seed, time.monotonic() - began, episodes, verdict, skipped, version)


def _drawn(faults: Sequence[Fault], *, seed: int, once: bool) -> Iterator[Fault]:
    """The faults in an order of the seed, and then in another one."""
    chance = random.Random(seed)
    while True:
        yield from chance.sample(faults, k=len(faults))
        if once:
            return


async def _play(world: World, fault: Fault) -> Episode:
    episode = Episode(fault, datetime.now(UTC))
    try:
        async with fault.inject(world):
            if fault.since == "injected":
                await _watch(world, episode)
        if fault.since == "healed":
            await _watch(world, episode)
    except Exception:  # a script that fails tells of the bus, too: a worker that does not start, say
        episode.findings.append(traceback.format_exc())
    episode.findings += await world.restore_team()
    episode.ended_at = datetime.now(UTC)
    if not episode.is_met:
        await _goes_on(world, episode.ended_at)
    return episode


async def _watch(world: World, episode: Episode) -> None:
    """Wait until the bus goes on, and note how long that took."""
    episode.marked_at = datetime.now(UTC)
    if went_on := await _goes_on(world, episode.marked_at):
        episode.recovery, episode.last = went_on


async def _goes_on(world: World, since: datetime) -> tuple[float, str] | None:
    """Seconds until each listener has handled an event that was published since then, and which was the last."""

    async def all_went_on() -> list[tuple[float, str]]:
        rows = await world.sql(_GOES_ON, since)
        return [(row["after"], row["listener"]) for row in rows] if len(rows) == len(LISTENERS) else []

    try:
        return max(await eventually(all_went_on, PATIENCE))
    except AssertionError:
        return None


async def _measure(world: World, episode: Episode) -> None:
    episode.stall = await world.value(STALL, episode.began_at, episode.ended_at)
    if episode.marked_at:
        episode.caught_up = await world.value(_CAUGHT_UP, episode.began_at, episode.marked_at)


def _line(episode: Episode) -> str:
    took = "does not go on" if episode.recovery is None else f"goes on after {episode.recovery:.1f} s ({episode.last})"
    return f"{took} (goal {episode.fault.goal:.0f} s)" + "".join(f"\n    {one}" for one in episode.findings)
