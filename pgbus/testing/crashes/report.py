"""The report of a crash test: the points at which the handler was killed, and the doubled or lost writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

When: TypeAlias = Literal["before", "after"]
Kind: TypeAlias = Literal["doubled", "lost", "changed", "dead", "stuck"]


@dataclass(frozen=True, slots=True)
class Point:
    """A place to die at: before the server gets a statement, or after the server has carried it out.

    - `number`: its place in the run, from 1.
    - `what`: the statement, or an effect that the test has named; on one line.
    """

    number: int
    when: When
    what: str

    def __str__(self) -> str:
        """As a report shows it."""
        return f"{self.number}, {self.when} {self.what}"


@dataclass(frozen=True, slots=True)
class Finding:
    """The differences after a crash at `point` and the attempt that followed it.

    - `kind`: `doubled` and `lost` for rows, events and effects; `changed` for a row that holds other values; `dead` for
      an event that became a dead letter; `stuck` for one that was not settled in time.
    - `where`: the table, `events`, or the effect.
    - `detail`: the rows, or the error.
    """

    point: Point
    kind: Kind
    where: str
    detail: str

    def __str__(self) -> str:
        """As a report shows it."""
        return f"{self.kind}: {self.where}: {self.detail}"


@dataclass(frozen=True, slots=True)
class CrashReport:
    """The result of a crash test.

    - `points`: every place that the handler was killed at.
    - `findings`: what was different afterwards; empty for a handler that bears every crash.
    - `not_reached`: points that a later run did not come to, as the handler took another way.
    - `seconds`: how long the test took.
    """

    listener_name: str
    points: Sequence[Point]
    findings: Sequence[Finding]
    not_reached: Sequence[Point]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether nothing was doubled, lost or changed, wherever the handler was killed."""
        return not self.findings

    def __str__(self) -> str:
        """The report for people: a headline, and the findings by their points."""
        lines = [
            f"{self.listener_name} was killed at {len(self.points)} points in {self.seconds:.0f} s: "
            + (f"{len(self.findings)} findings" if self.findings else "nothing was doubled or lost")
        ]
        told: Point | None = None
        for finding in self.findings:
            if finding.point != told:
                lines.append(f"  killed at point {finding.point}")
                told = finding.point
            lines.append(f"    {finding}")
        lines += [f"  not reached again: point {point}" for point in self.not_reached]
        return "\n".join(lines)
