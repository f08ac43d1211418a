"""What follows from an attempt, and how long a retry waits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pgbus
from pgbus.errors import UnhandledEventError
from pgbus.handlers.outcomes import (
    DONE,
    MAX_DELAY,
    MAX_ERROR_LENGTH,
    MAX_TRACEBACK_LENGTH,
    Dead,
    Retry,
    RetryPolicy,
    decide,
    fingerprint_of,
)

NO_JITTER = RetryPolicy(max_attempts=3, jitter=0)


def raised(error: BaseException) -> BaseException:
    """The error with a traceback."""
    try:
        raise error
    except BaseException as caught:
        return caught


def test_no_error_is_done() -> None:
    assert decide(None, attempt=99, policy=NO_JITTER) is DONE


def test_an_error_is_retried_until_the_last_attempt() -> None:
    error = raised(ValueError("no"))
    assert decide(error, attempt=1, policy=NO_JITTER) == Retry(delay=1.0, error="ValueError: no")
    assert decide(error, attempt=2, policy=NO_JITTER) == Retry(delay=2.0, error="ValueError: no")
    last = decide(error, attempt=3, policy=NO_JITTER)
    assert isinstance(last, Dead)
    assert last.error == "ValueError: no"
    assert last.traceback
    assert "in raised" in last.traceback


def test_retry_keeps_its_reason_and_delay_and_counts_as_an_attempt() -> None:
    error = pgbus.Retry("later", after=7)
    assert decide(error, attempt=1, policy=NO_JITTER) == Retry(delay=7.0, error="later")
    assert decide(pgbus.Retry("later"), attempt=2, policy=NO_JITTER) == Retry(delay=2.0, error="later")
    assert isinstance(decide(error, attempt=3, policy=NO_JITTER), Dead)


def test_a_negative_delay_is_none_and_an_endless_one_a_hundred_years() -> None:
    assert decide(pgbus.Retry(after=-1), attempt=1, policy=NO_JITTER) == Retry(0.0, "the handler asked for a retry")
    far = decide(pgbus.Retry(after=1e300), attempt=1, policy=NO_JITTER)
    assert isinstance(far, Retry)
    assert far.delay == MAX_DELAY


@pytest.mark.parametrize("after", [math.nan, math.inf, -math.inf])
def test_retry_refuses_a_delay_that_is_no_number_of_seconds(after: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        pgbus.Retry(after=after)


def test_dead_and_an_unhandled_event_give_up_at_the_first_attempt() -> None:
    assert decide(pgbus.Dead("enough"), attempt=1, policy=NO_JITTER) == Dead(error="enough", fingerprint="Dead")
    unhandled = decide(UnhandledEventError("no such field"), attempt=1, policy=NO_JITTER)
    assert unhandled == Dead(error="UnhandledEventError: no such field", fingerprint="UnhandledEventError")


@pytest.mark.parametrize("error", [SystemExit(2), KeyboardInterrupt(), MemoryError()])
def test_errors_that_would_end_a_program_are_failures_like_others(error: BaseException) -> None:
    assert isinstance(decide(error, attempt=1, policy=NO_JITTER), Retry)


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_error_that_has_no_text_is_described_by_its_type() -> None:
    outcome = decide(Mute(), attempt=1, policy=NO_JITTER)
    assert isinstance(outcome, Retry)
    assert outcome.error.startswith("Mute: ")


@given(st.text(alphabet=st.characters(), max_size=50) | st.just("x" * 10_000) | st.just("\ud800" * 2_000))
def test_every_text_of_an_error_can_be_stored(text: str) -> None:
    policy = RetryPolicy(max_attempts=1)
    for error in (ValueError(text), pgbus.Dead(text), ExceptionGroup("many", [KeyError(text)])):
        outcome = decide(raised(error), attempt=1, policy=policy)
        assert isinstance(outcome, Dead)
        for stored, length in ((outcome.error, MAX_ERROR_LENGTH), (outcome.traceback or "", MAX_TRACEBACK_LENGTH)):
            assert len(stored) <= length
            assert "\x00" not in stored
            assert stored.encode().decode() == stored


@given(
    attempt=st.integers(1, 5_000),
    base=st.floats(0, 1e6),
    factor=st.floats(1, 100),
    limit=st.floats(0, 1e12),
    jitter=st.floats(0, 1),
    chance=st.floats(0, 1),
)
def test_a_delay_lies_between_what_jitter_leaves_of_it_and_the_limit(
    attempt: int, base: float, factor: float, limit: float, jitter: float, chance: float
) -> None:
    policy = RetryPolicy(base_delay=base, factor=factor, max_delay=limit, jitter=jitter)
    full = RetryPolicy(base_delay=base, factor=factor, max_delay=limit, jitter=0).delay(attempt)
    delay = policy.delay(attempt, chance=chance)
    assert 0 <= delay <= full <= min(limit, MAX_DELAY)
    assert math.isclose(policy.delay(attempt, chance=0), full)


@given(st.integers(1, 500))
def test_without_jitter_delays_never_shrink(attempt: int) -> None:
    policy = RetryPolicy(jitter=0)
    assert policy.delay(attempt) <= policy.delay(attempt + 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0},
        {"base_delay": -1},
        {"base_delay": math.nan},
        {"factor": 0.5},
        {"max_delay": -1},
        {"jitter": 2},
    ],
    ids=str,
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(pgbus.ConfigurationError, match="retry"):
        RetryPolicy(**wrong)


def test_the_traceback_of_a_dead_letter_begins_in_the_handler() -> None:
    # Where pgbus itself is all there is, that is better than nothing; a handler's frame comes after ours.
    frames: dict[str, object] = {"__name__": "pgbus.listeners"}
    exec("def call(handler):\n    handler()", frames)

    def handler() -> None:
        raise ValueError("no stock")

    with pytest.raises(ValueError, match="no stock") as raised:
        frames["call"](handler)  # type: ignore[operator]
    error = raised.value
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next  # this test called pgbus, which is not how it goes
    outcome = decide(error, attempt=1, policy=RetryPolicy(max_attempts=1))

    assert isinstance(outcome, Dead)
    assert outcome.traceback is not None
    assert "in handler" in outcome.traceback
    assert "in call" not in outcome.traceback


@pytest.mark.parametrize(
    ("modules", "place"),
    [
        (["pgbus.listeners.attempts", "pgbus.demo.listeners"], "pgbus.demo.listeners:call"),
        (["pgbus.listeners.attempts", "pgbus.contrib.relay.outward"], "pgbus.contrib.relay.outward:call"),
        # What it calls of the engine is not the place.
        (["pgbus.listeners.attempts", "pgbus.demo.listeners", "pgbus.rpc.calls"], "pgbus.demo.listeners:call"),
        (["pgbus.listeners.attempts", "pgbus.contrib.django.listeners", "shop.mail"], "shop.mail:call"),
        (["pgbus.listeners.attempts", "pgbus.listeners.executor"], "pgbus.listeners.attempts:call"),
    ],
)
def test_a_failure_is_placed_in_the_handler_also_in_one_of_pgbus(modules: list[str], place: str) -> None:
    body = "raise ValueError"
    call: Callable[[], object] = dict
    for module in reversed(modules):
        space: dict[str, Any] = {"__name__": module, "below": call}
        exec(f"def call(): {body}", space)
        body, call = "below()", space["call"]
    with pytest.raises(ValueError) as failed:  # noqa: PT011
        call()
    assert failed.value.__traceback__ is not None
    # Without the frame of this test.
    error = failed.value.with_traceback(failed.value.__traceback__.tb_next)
    assert fingerprint_of(error) == f"ValueError at {place}"
