"""A curve: a cost at growing sizes, and whether it grows as it should."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.plots import Line, lines

# Runs on a busy machine scatter: a curve is called steeper when it rises by this much more per tenfold size.
TOLERANCE = 0.25


@dataclass(frozen=True)
class Trace:
    """One cost at each size. It should grow with the size to the power of `exponent` at most: 0 is constant, 1 linear.

    Costs below `floor` are noise or fixed, and count as `floor`.
    """

    name: str
    points: Sequence[tuple[float, float]]
    exponent: float = 0.0
    floor: float = 0.0

    def steepest(self) -> tuple[float, float, float]:
        """The exponent of the steepest stretch, and the sizes where it begins and ends."""
        raised = [(x, max(y, self.floor, 1e-9)) for x, y in self.points]
        pairs = pairwise(raised)
        slopes = [(math.log(y2 / y1) / math.log(x2 / x1), x1, x2) for (x1, y1), (x2, y2) in pairs]
        return max(slopes, default=(0.0, 0.0, 0.0))

    @property
    def steeper(self) -> bool:
        """Whether it grows faster than it should."""
        return self.steepest()[0] > self.exponent + TOLERANCE

    def verdict(self) -> str:
        """In words: as it should grow, or where it is steeper."""
        steepest, begin, end = self.steepest()
        if not self.steeper:
            return "as it should"
        return f"steeper from {begin:,.0f} to {end:,.0f}: size to the power of {steepest:.1f}"


@dataclass(frozen=True)
class Curve:
    """Traces over one kind of size. `about` says what was done; `digits` are those of the table."""

    slug: str
    title: str
    x_name: str
    y_name: str
    about: str
    traces: Sequence[Trace]
    digits: int = 0

    def table(self) -> str:
        """Markdown: a row for each size, and a last row with the verdicts."""
        sizes = sorted({x for trace in self.traces for x, _ in trace.points})
        found = [dict(trace.points) for trace in self.traces]
        rows = [
            "| " + " | ".join([self.x_name, *(f"{one.name}, {self.y_name}" for one in self.traces)]) + " |",
            "|---|" + "---|" * len(self.traces),
        ]
        for size in sizes:
            cells = [f"{one[size]:,.{self.digits}f}" if size in one else "-" for one in found]
            rows.append(f"| {size:,.0f} | " + " | ".join(cells) + " |")
        rows.append("| grows | " + " | ".join(one.verdict() for one in self.traces) + " |")
        return "\n".join(rows)

    def plot(self) -> str:
        return lines(self.title, self.x_name, self.y_name, [Line(one.name, one.points) for one in self.traces])
