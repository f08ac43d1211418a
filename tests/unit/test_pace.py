"""How much a listener claims: enough for its slots, no more than about a second of work."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pgbus.listeners.pace import MAX_CLAIM, Pace

paces = st.builds(
    Pace,
    concurrency=st.integers(1, 100),
    target=st.floats(0.01, 60),
    batch_size=st.none() | st.integers(1, 10_000),
)


def adaptive(*, concurrency: int = 10, seconds: float | None = None) -> Pace:
    pace = Pace(concurrency=concurrency, target=1.0, batch_size=None)
    for _ in range(50):
        if seconds is not None:
            pace.saw_work(events=10, seconds=10 * seconds)
    return pace


def test_quick_events_are_claimed_by_the_thousand_and_slow_ones_one_by_one() -> None:
    assert adaptive(seconds=0.0001).wanted(free_slots=10, waiting=0) == MAX_CLAIM
    assert adaptive(seconds=60).wanted(free_slots=10, waiting=0) == 10
    assert adaptive(seconds=0.0001).piece > 100
    assert adaptive(seconds=60).piece == 1


def test_before_an_event_was_seen_no_more_are_claimed_than_can_start_now() -> None:
    assert adaptive().wanted(free_slots=10, waiting=0) == 10
    assert adaptive().wanted(free_slots=0, waiting=0) == 0
    assert adaptive(concurrency=1).batch > 1


def test_with_other_workers_less_is_kept_at_hand() -> None:
    pace = adaptive(seconds=0.125)
    assert pace.reserve == 80
    pace.shared = True
    assert pace.reserve == 16
    assert pace.batch == 80


def test_the_pace_slows_at_one_slow_claim_and_quickens_bit_by_bit() -> None:
    pace = adaptive(seconds=0.001)
    quick = pace.reserve
    pace.saw_work(events=1, seconds=1)
    assert pace.reserve == 10
    pace.saw_work(events=1000, seconds=1)
    assert 10 < pace.reserve < quick


def test_nothing_is_claimed_while_half_of_the_reserve_waits() -> None:
    pace = adaptive(seconds=0.125)
    assert pace.reserve == 80
    assert pace.wanted(free_slots=0, waiting=41) == 0
    assert pace.wanted(free_slots=0, waiting=40) == 40


def test_what_waits_for_a_free_slot_keeps_no_other_slot_empty() -> None:
    pace = Pace(concurrency=4, target=1.0, batch_size=1)
    assert [pace.wanted(free_slots=4, waiting=waiting) for waiting in range(6)] == [1, 1, 1, 1, 1, 0]


def test_a_batch_size_of_the_users_own_is_kept_whatever_was_measured() -> None:
    pace = Pace(concurrency=10, target=1.0, batch_size=7)
    pace.saw_work(events=1000, seconds=0.001)
    assert pace.wanted(free_slots=10, waiting=0) == pace.piece == pace.reserve == 7


@given(pace=paces, free=st.integers(0, 100), waiting=st.integers(0, 5_000), seconds=st.floats(0, 1e6))
def test_a_claim_is_never_negative_nor_beyond_its_limits(pace: Pace, free: int, waiting: int, seconds: float) -> None:
    pace.saw_work(events=3, seconds=seconds)
    assert 0 <= pace.wanted(free_slots=free, waiting=waiting) <= max(MAX_CLAIM, pace.reserve)
    assert pace.piece >= 1


@given(pace=paces, free=st.integers(1, 100), seconds=st.floats(0, 1e6))
def test_a_free_slot_with_nothing_waiting_always_claims(pace: Pace, free: int, seconds: float) -> None:
    pace.saw_work(events=1, seconds=seconds)
    assert pace.wanted(free_slots=free, waiting=0) >= 1


@given(
    pace=paces, sizes=st.lists(st.tuples(st.integers(1, 2_000), st.integers(1, 2_000))), events=st.integers(1, 2_000)
)
def test_at_least_one_run_is_looked_at_and_no_more_than_events(
    pace: Pace, sizes: list[tuple[int, int]], events: int
) -> None:
    for seen, rows in sizes:
        pace.saw_claim(events=seen, rows=rows)
    assert 1 <= pace.rows(events) <= events
