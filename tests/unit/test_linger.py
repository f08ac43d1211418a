"""How long the leader waits between looks, by the rate at which events come."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbus.leader.sequencer import LINGER, LINGER_HIGH_LIMIT, MEMORY, Arrivals

MANY_STEPS = st.lists(st.tuples(st.integers(0, 2_000), st.floats(0.0001, 10.0)), max_size=30)


@pytest.mark.parametrize(
    ("rate", "seconds"),
    [
        (0.0, 0.002),
        (500.0, 0.002),
        (800.0, 0.0028),
        (1_000.0, 0.0035),
        (1_700.0, 0.0035),
        (2_500.0, 0.005),
        (5_000.0, 0.010),
        (1_000_000.0, 0.010),
    ],
)
def test_the_leader_waits_longer_the_faster_events_come(rate: float, seconds: float) -> None:
    assert Arrivals(rate).linger == pytest.approx(seconds)


def test_the_first_events_after_a_quiet_time_are_no_steady_stream() -> None:
    arrivals = Arrivals()
    arrivals.saw(1, seconds=math.inf)
    assert not arrivals.are_steady
    arrivals.saw(8, seconds=1.0)
    assert not arrivals.are_steady


def test_bursts_that_a_look_finds_nothing_between_are_a_steady_stream() -> None:
    arrivals = Arrivals()
    for events in [8, 0, 0, 0] * 10:
        arrivals.saw(events, seconds=0.002)
    assert arrivals.are_steady


@given(rate=st.floats(0.0, 100_000.0))
def test_a_stream_that_has_ended_is_steady_for_an_eighth_of_a_second_at_most(rate: float) -> None:
    arrivals, waited = Arrivals(rate), 0.0
    while arrivals.are_steady:
        arrivals.saw(0, seconds=arrivals.linger)
        waited += arrivals.linger
    assert waited <= 0.125


@given(steps=MANY_STEPS)
def test_the_rate_is_none_that_no_step_had_and_the_pause_stays_in_its_limits(steps: list[tuple[int, float]]) -> None:
    arrivals = Arrivals()
    for events, seconds in steps:
        arrivals.saw(events, seconds=seconds)
        assert LINGER <= arrivals.linger <= LINGER_HIGH_LIMIT
    assert 0 <= arrivals.rate <= max((events / seconds for events, seconds in steps), default=0.0) * (1 + 1e-9)


@given(events=st.integers(0, 100), seconds=st.floats(0.001, 1.0), parts=st.integers(1, 20))
def test_a_steady_stream_has_the_same_rate_in_small_looks_and_in_large_ones(
    events: int, seconds: float, parts: int
) -> None:
    whole, divided = Arrivals(), Arrivals()
    whole.saw(events * parts, seconds=seconds * parts)
    for _ in range(parts):
        divided.saw(events, seconds=seconds)
    assert divided.rate == pytest.approx(whole.rate, rel=1e-6, abs=1e-6)


def test_half_of_the_rate_is_of_the_last_events_after_the_memory_times_the_logarithm_of_2() -> None:
    arrivals = Arrivals(1_000.0)
    arrivals.saw(0, seconds=MEMORY * math.log(2))
    assert arrivals.rate == pytest.approx(500.0)
