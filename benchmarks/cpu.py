"""CPU and wall time of variants that take turns, so that all of them meet the same noise."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from benchmarks.support import median, quantile


def cpu_of(pids: Sequence[int]) -> float:
    """Seconds of CPU that these processes have used; Linux only."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1e9


class Sessions:
    """CPU of the sessions of buses on the server, also of those that come and go between looks."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._used: dict[int, float] = {}

    async def look(self) -> float:
        """Seconds of CPU that all of them have used so far, as far as looks have seen."""
        rows = await self._connection.fetch(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'pgbus%'"
        )
        for row in rows:
            with suppress(FileNotFoundError):  # it has just ended
                self._used[row["pid"]] = cpu_of([row["pid"]])
        return sum(self._used.values())


@dataclass
class Timings:
    """The times of one variant, one value per turn: seconds of wall time, and of the server's and this process's
    CPU."""

    wall: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)
    client: list[float] = field(default_factory=list)

    @property
    def cpu(self) -> float:
        """Seconds of CPU of the server and of this process for one turn, each at p10."""
        return quantile(self.server, 0.1) + quantile(self.client, 0.1)

    def line(self, per: int) -> str:
        """Microseconds for each of the `per` things that a turn does: p10 and median of the wall time, CPU by p10."""
        taken = [quantile(self.wall, 0.1), median(self.wall), quantile(self.server, 0.1), quantile(self.client, 0.1)]
        wall, slow, server, client = (1e6 / per * one for one in taken)
        return f"wall {wall:.0f} / {slow:.0f} us, CPU server {server:.0f}, client {client:.0f}"

    def rates(self, other: Timings) -> tuple[float, float, float]:
        """The rate as a part of another variant's: by wall time at the median and at p10, and by CPU at p10."""
        return (
            median(other.wall) / median(self.wall),
            quantile(other.wall, 0.1) / quantile(self.wall, 0.1),
            other.cpu / self.cpu,
        )


Turn = Callable[[int], Awaitable[None]]


async def take_turns(turns: Mapping[str, Turn], *, rounds: int, server: Sequence[int]) -> dict[str, Timings]:
    """Call each turn once a round, every other round in the opposite order; the first tenth of the rounds warms up.

    `server` are the process ids of the sessions that the turns use.
    """
    timings = {name: Timings() for name in turns}
    for number in range(rounds):
        order = list(turns.items())
        for name, turn in order if number % 2 else reversed(order):
            before = cpu_of(server), time.process_time(), time.perf_counter()
            await turn(number)
            after = cpu_of(server), time.process_time(), time.perf_counter()
            if number >= rounds / 10:
                one = timings[name]
                one.server.append(after[0] - before[0])
                one.client.append(after[1] - before[1])
                one.wall.append(after[2] - before[2])
    return timings
