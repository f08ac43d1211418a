"""Durations and counts as people read them, in a terminal, in the doctor's findings and in the dashboard."""

from __future__ import annotations

import pytest

from pgbus.telemetry.figures import counted, duration


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "0 s"),
        (0.00035, "350 µs"),
        (0.012, "12 ms"),
        (1.52, "1.5 s"),
        (2.0, "2 s"),
        (45, "45 s"),
        (119, "119 s"),
        (120, "2 min"),
        (18_000, "5 h"),
        (259_200, "3 d"),
    ],
)
def test_a_duration_is_shown_in_its_largest_sensible_unit(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


@pytest.mark.parametrize(
    ("value", "said"), [(0, "0 workers"), (1, "1 worker"), (2, "2 workers"), (1_125, "1,125 workers")]
)
def test_a_count_has_its_noun_in_the_plural_where_it_is_due(value: int, said: str) -> None:
    assert counted(value, "worker") == said
