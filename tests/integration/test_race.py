"""The race's harness with real programs on a real server: pgbus, and the queue by hand."""

from __future__ import annotations

import sys

import pytest

from benchmarks.race.race import Plan, race

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="CPU is read from /proc")


async def test_pgbus_and_a_queue_by_hand_handle_all_that_they_publish(empty_database: str) -> None:
    results = await race(empty_database, Plan(["pgbus", "hand"], ["W3", "W7"], events=100, passes=1, minutes=1))
    assert (results.failures, results.skipped) == ([], {})
    assert set(results.versions) == {"pgbus", "hand"}
    assert set(results.figures) == {"W3", "W7"}
    for found in results.figures.values():
        assert set(found) == {"pgbus", "hand"}
    [drained] = results.figures["W3"]["pgbus"]
    assert drained["events/s"] > 0
    assert drained["cpu"] == pytest.approx(drained["worker"] + drained["server"])
    [written] = results.figures["W7"]["hand"]
    assert written["dead"] == pytest.approx(1.0)
    assert written["all"] > 200
