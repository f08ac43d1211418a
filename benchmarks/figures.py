"""A figure of a benchmark, with its baseline and its goal, and the one table that shows them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.support import spread


@dataclass(frozen=True)
class Goal:
    """A bound: the figure shall be at least, or at most, this."""

    value: float
    floor: bool

    def met(self, figure: float) -> bool:
        return figure >= self.value if self.floor else figure <= self.value

    def __str__(self) -> str:
        return f"{'>=' if self.floor else '<='} {self.value:,g}"


def at_least(value: float) -> Goal:
    return Goal(value, floor=True)


def at_most(value: float) -> Goal:
    return Goal(value, floor=False)


@dataclass(frozen=True)
class Figure:
    """One thing that was measured, in `unit`. `values` are those of the runs, `baseline` is what a ratio refers to, and
    `note` what else the runs say. `workload` is that of the plan (W1 to W10), or empty.
    """

    workload: str
    what: str
    values: Sequence[float]
    unit: str = ""
    digits: int = 2
    baseline: str = ""
    goal: Goal | None = None
    note: str = ""

    @property
    def value(self) -> float:
        """The median of the runs."""
        ordered = sorted(self.values)
        middle = len(ordered) // 2
        return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2

    def cells(self) -> list[str]:
        reached = "" if self.goal is None else ("yes" if self.goal.met(self.value) else "no")
        measured = " ".join(filter(None, (spread(self.values, self.digits), self.unit)))
        return [self.workload, self.what, measured, self.baseline, str(self.goal or ""), reached, self.note]


HEADINGS = ("", "what", "measured", "compared with", "goal", "reached", "")


def table(figures: Sequence[Figure]) -> str:
    """All of them as one table, those of the workloads first; its columns are as wide as what they hold."""
    rows = [HEADINGS, *(one.cells() for one in sorted(figures, key=_order))]
    widths = [max(len(row[number]) for row in rows) for number in range(len(HEADINGS))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _order(figure: Figure) -> int:
    return int(figure.workload[1:]) if figure.workload else 99
