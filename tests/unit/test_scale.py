"""The curves of the scale benchmark: what grows as it should, and what grows faster."""

from __future__ import annotations

import pytest

from benchmarks.scale.command import page
from benchmarks.scale.curve import Curve, Trace
from benchmarks.scale.sizes import FULL, SHORT, events, sizes


def test_a_flat_cost_and_one_that_grows_linearly_are_as_they_should_be() -> None:
    assert not Trace("event", [(1, 20.0), (10, 24.0), (100, 22.0)]).steeper
    assert not Trace("bytes", [(100, 1.0), (1_000, 9.0), (10_000, 95.0)], exponent=1.0).steeper


def test_a_cost_that_grows_faster_than_it_should_is_named_with_its_stretch() -> None:
    trace = Trace("claims", [(10, 1.0), (100, 1.1), (1_000, 110.0)])
    assert trace.steeper
    assert trace.verdict() == "steeper from 100 to 1,000: size to the power of 2.0"


def test_what_lies_below_the_floor_is_no_growth() -> None:
    assert not Trace("question", [(10, 5.0), (100, 150.0)], floor=200.0).steeper


def test_a_page_has_each_table_and_the_plans_of_what_grows_faster() -> None:
    steep, flat = Trace("lag", [(1, 1.0), (10, 100.0)]), Trace("events", [(1, 1.0), (10, 1.0)])
    curve = Curve("log", "The log", "events", "us", "Questions.", [steep, flat])
    written = page("Measured.", [curve], {"lag": "Seq Scan on log", "events": "Index Scan"})
    assert "| 10 | 100 | 1 |" in written
    assert "Seq Scan on log" in written
    assert "Index Scan" not in written
    assert "<svg" in curve.plot()


def test_sizes_are_those_of_the_environment_or_of_the_chosen_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGBUS_SCALE", raising=False)
    monkeypatch.delenv("PGBUS_SCALE_LOG", raising=False)
    assert sizes("log") == SHORT["log"]
    monkeypatch.setenv("PGBUS_SCALE", "full")
    assert sizes("log") == FULL["log"]
    monkeypatch.setenv("PGBUS_SCALE_LOG", "500,100")
    assert sizes("log") == [100, 500]
    monkeypatch.setenv("PGBUS_SCALE_PART", "0.1")
    assert (events(1_000), events(50)) == (100, 20)
