"""How often statements scan from the bottom, by how long that takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbus.database.statements.deliveries import pause_after_scan


@pytest.mark.parametrize(
    ("took", "least", "pause"), [(0.0, 5.0, 5.0), (0.025, 5.0, 5.0), (0.1, 5.0, 20.0), (0.1, 60.0, 60.0)]
)
def test_a_scan_that_takes_long_comes_less_often(took: float, least: float, pause: float) -> None:
    assert pause_after_scan(took, least=least) == pytest.approx(pause)


@given(took=st.floats(0.0, 600.0), least=st.floats(0.1, 60.0))
def test_scans_take_a_two_hundredth_of_the_time_at_most(took: float, least: float) -> None:
    assert took <= pause_after_scan(took, least=least) * (1 / 200) * (1 + 1e-9)
