"""The costs of the simulated fleet, measured, and its prediction, compared with a real run."""

from __future__ import annotations

import os
import sys

import msgspec
import pytest

from benchmarks.fleet.calibrate import calibrate
from benchmarks.fleet.costs import load
from benchmarks.fleet.validate import FACTOR, RATES, validate
from benchmarks.support import server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="CPU of sessions is read from /proc")


async def test_calibration_measures_each_cost() -> None:
    """In few rounds, so slopes may be lost in the noise; what has a statement of its own has its cost."""
    with server() as dsn:
        costs = await calibrate(dsn, rounds=3)
    slopes = {"look_event", "look_delivery", "look_writes", "leader_client", "leader_client_event", "notify_session",
              "claim", "claim_event", "settle", "settle_event"}  # fmt: skip
    taken = {name: value for name, value in msgspec.structs.asdict(costs).items() if name != "measured"}
    assert [name for name, value in taken.items() if value <= 0 and name not in slopes] == []
    assert costs.measured.startswith("Measured on ")


@pytest.mark.skipif(
    "PGBUS_BENCH_FLEET" not in os.environ, reason="compares times: PGBUS_BENCH_FLEET=1 on an idle machine"
)
async def test_the_model_predicts_the_cpu_of_two_workers_within_its_factor() -> None:
    with server() as dsn:
        assert (await validate(dsn, load(), RATES[0])).factor <= FACTOR
