"""Compares the model with a real run of a small fleet: two workers that share a listener, and a steady stream."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.fleet.costs import Costs
from benchmarks.fleet.model import Fleet, Outcome, Server, simulate
from benchmarks.paced import UNORDERED, stream

FACTOR = 4.0
"""Measured and predicted CPU differ by no more than this factor at the first of `RATES`, where the cores are not busy.
Where they are, as the workers share them, the leader and the workers take more events at once, and an event costs less
than predicted."""
WORKERS = 2
RATES = (100, 1_000)
SECONDS = 5.0


@dataclass(frozen=True)
class Comparison:
    """CPU of the server for each event, without publishing, in microseconds; latencies in milliseconds."""

    rate: int
    predicted: float
    measured: float
    p50_predicted: float
    p50_measured: float

    @property
    def factor(self) -> float:
        return max(self.predicted, self.measured) / min(self.predicted, self.measured)

    def __str__(self) -> str:
        return (
            f"{WORKERS} workers, {self.rate:,} events/s: CPU of the server per event, without publishing: predicted "
            f"{self.predicted:.0f} us, measured {self.measured:.0f} us, a factor of {self.factor:.1f};"
            f" p50 predicted {self.p50_predicted:.1f} ms, measured {self.p50_measured:.1f} ms"
        )


def predict(costs: Costs, rate: int) -> Outcome:
    return simulate(costs, Fleet(workers=WORKERS, services=1, rate=rate, handler=0.00005), Server(cores=2))


async def validate(dsn: str, costs: Costs, rate: int, seconds: float = SECONDS) -> Comparison:
    found = predict(costs, rate)
    consumers = sum(cpu for kind, cpu in found.cpu.items() if kind != "publishing")
    real = await stream(dsn, seconds=seconds, rate=rate, workers=WORKERS)
    return Comparison(rate, 1e6 * consumers / found.published, real.server, 1000 * found.p50, real.heard[UNORDERED].p50)
