"""Tables fit the terminal: cells are cut off and columns left out, but no row wraps."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from pgbus.cli.tables import Column, Listing, fit

COLUMNS = (
    Column(heading="name", elastic=True),
    Column(heading="count", right=True),
    Column(heading="worker", rank=1),
    Column(heading="version", rank=2),
)


def shown(listing: Listing, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(listing)
    return out.getvalue().splitlines()


def listing(name: str = "a-listener-with-quite-a-long-name-for-it") -> Listing:
    made = Listing(*COLUMNS)
    made.add(Text(name), "7", "worker-1", "0.1.0")
    return made


def test_a_wide_terminal_shows_everything_without_trailing_spaces() -> None:
    heading, row = shown(listing(), 200)
    assert heading.split() == ["NAME", "COUNT", "WORKER", "VERSION"]
    assert row == "a-listener-with-quite-a-long-name-for-it      7  worker-1  0.1.0"


def test_long_cells_are_cut_off_before_columns_are_left_out_by_rank() -> None:
    assert shown(listing(), 60)[1] == "a-listener-with-quite-a-long-name…      7  worker-1  0.1.0"
    assert shown(listing(), 46)[1] == "a-listener-with-quite-a-long…      7  worker-1"
    assert shown(listing(), 33)[1] == "a-listener-with-quite-a-l…      7"
    assert shown(listing(), 12)[1] == "a-l…       7"[:12] or len(shown(listing(), 12)[1]) <= 12


def test_line_breaks_become_spaces_and_wide_characters_count_twice() -> None:
    made = Listing(Column(heading="a"), Column(heading="b"))
    made.add("x\ny", "1")
    made.add("漢字", "2")
    assert shown(made, 80) == ["A     B", "x y   1", "漢字  2"]


@pytest.mark.parametrize("width", [20, 40, 80, 120])
@given(names=st.lists(st.text(st.characters(codec="ascii", categories=["L"]), max_size=90), min_size=1, max_size=4))
def test_no_row_is_wider_than_the_terminal_or_takes_two_lines(width: int, names: list[str]) -> None:
    made = Listing(*COLUMNS)
    for name in names:
        made.add(name, "7", "worker-1", "0.1.0")
    lines = shown(made, width)
    assert len(lines) == len(names) + 1
    assert max(map(len, lines)) <= width


def test_a_column_without_rank_stays() -> None:
    assert [place for place, _ in fit(COLUMNS, [90, 5, 8, 7], 10)] == [0, 1]


def test_a_column_is_left_out_where_the_others_would_be_narrower_than_their_least_widths() -> None:
    columns = (Column(heading="who", elastic=True, least=12), Column(heading="why", elastic=True, rank=1, least=8))
    assert [place for place, _ in fit(columns, [40, 40], 22)] == [0, 1]
    assert [place for place, _ in fit(columns, [40, 40], 21)] == [0]
