"""How long the leader waits between looks, by the rate at which events come."""

from __future__ import annotations

import pytest

from pgbus.leader.sequencer import linger


@pytest.mark.parametrize(
    ("rate", "seconds"), [(0.0, 0.002), (1_000.0, 0.002), (2_500.0, 0.005), (5_000.0, 0.010), (1_000_000.0, 0.010)]
)
def test_the_leader_waits_longer_the_faster_events_come(rate: float, seconds: float) -> None:
    assert linger(rate) == pytest.approx(seconds)
