from __future__ import annotations

import json

from pgbus.worker.under_way import MOST_REPORTED, Work, describe, report


def test_what_runs_is_named_with_its_age_and_the_longest_first() -> None:
    work = [
        Work(kind="schedule", name="night", age=2.4),
        Work(kind="listener", name="mailer", age=3.0),
        Work(kind="listener", name="mailer", age=12.0),
    ]
    assert describe(work) == "listener mailer (2 calls, the longest for 12 s), schedule night (2.4 s)"
    assert describe([]) == ""


def test_what_has_run_for_a_second_is_reported_the_longest_first_and_not_without_end() -> None:
    work = [Work(kind="procedure", name="shop.buy", age=age / 100) for age in range(50, 400)]
    found = json.loads(report(work))
    assert len(found) == MOST_REPORTED
    assert found[0] == {"kind": "procedure", "name": "shop.buy", "age": 3.99}
    assert json.loads(report(work[:50])) == []
