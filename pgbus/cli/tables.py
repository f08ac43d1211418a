"""Tables of results: whole lines in a pipe, and on a terminal what fits into its width, never a wrapped row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions
from rich.text import Text

_GAP = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column. `right` aligns numbers; `elastic` cells are cut off, with an ellipsis, where the terminal is narrow.

    A column with a `rank` is left out where the others would not fit, the highest rank first; it has none by default.
    Before that elastic columns are cut off, each to its `least` width in characters.
    """

    heading: str
    right: bool = False
    elastic: bool = False
    rank: int = 0
    least: int = 24


class Listing:
    """Rows under headings. A cell is a string or a styled `Text`; its line breaks become spaces."""

    def __init__(self, *columns: Column) -> None:
        self._columns = columns
        self._rows: list[list[Text]] = []

    def add(self, *cells: str | Text) -> None:
        """Add a row, with a cell for each column."""
        assert len(cells) == len(self._columns)
        self._rows.append([_on_one_line(cell) for cell in cells])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        headings = [Text(column.heading.upper(), style="bold") for column in self._columns]
        widths = [max(row[place].cell_len for row in (headings, *self._rows)) for place in range(len(self._columns))]
        shown = fit(self._columns, widths, options.max_width)
        for row in (headings, *self._rows):
            yield _line([(row[place], width, self._columns[place].right) for place, width in shown])


def fit(columns: Sequence[Column], widths: Sequence[int], available: int) -> list[tuple[int, int]]:
    """The places of the columns to show, and the width of each, in characters.

    Elastic columns shrink first, then columns are left out by their ranks, then elastic ones shrink to nothing.
    """
    places = list(range(len(columns)))
    spare = sorted((place for place in places if columns[place].rank), key=lambda place: -columns[place].rank)
    while _least(columns, widths, places) > available and spare:
        places.remove(spare.pop(0))
    return list(zip(places, _shrink(columns, widths, places, available), strict=True))


def _least(columns: Sequence[Column], widths: Sequence[int], places: Iterable[int]) -> int:
    least = [min(widths[place], columns[place].least) if columns[place].elastic else widths[place] for place in places]
    return sum(least) + _GAP * (len(least) - 1)


def _shrink(columns: Sequence[Column], widths: Sequence[int], places: Sequence[int], available: int) -> list[int]:
    """The widths of these columns, the elastic ones cut down until all fit: the widest gives first."""
    found = {place: widths[place] for place in places}
    elastic = [place for place in places if columns[place].elastic]
    excess = sum(found.values()) + _GAP * (len(places) - 1) - available
    while excess > 0 and elastic:
        widest = max(elastic, key=lambda place: found[place])
        if found[widest] <= 1:
            break
        next_widest = max((found[place] for place in elastic if place != widest), default=1)
        cut = min(excess, max(1, found[widest] - max(next_widest, 1)))
        found[widest] -= cut
        excess -= cut
    return [found[place] for place in places]


def _line(cells: Iterable[tuple[Text, int, bool]]) -> Text:
    line = Text(no_wrap=True, overflow="ignore")
    for place, (cell, width, is_right) in enumerate(cells):
        shown = cell.copy()
        shown.truncate(width, overflow="ellipsis")
        room = " " * (width - shown.cell_len)
        line.append(" " * _GAP if place else "")
        line.append_text(Text.assemble(room, shown) if is_right else Text.assemble(shown, room))
    line.rstrip()
    return line


def _on_one_line(cell: str | Text) -> Text:
    text = cell.copy() if isinstance(cell, Text) else Text(cell)
    return Text(" ").join(text.split("\n")) if "\n" in text.plain else text
