"""Durations and counts as people read them."""

from __future__ import annotations

_UNITS = (
    (0.001, "µs", 1e-6),
    (1, "ms", 1e-3),
    (120, "s", 1),
    (7_200, "min", 60),
    (172_800, "h", 3_600),
)


def duration(seconds: float) -> str:
    """A duration of 0 or more seconds in its largest sensible unit: `350 µs`, `12 ms`, `1.5 s`, `15 s`, `3 min`, `5 h`.

    0 is `0 s`. Below ten seconds it has a decimal, unless that is 0. A unit ends at two of the next one: `119 s`,
    `2 min`.
    """
    for limit, unit, size in _UNITS:
        if 0 < seconds < limit or (seconds == 0 and unit == "s"):
            number = f"{seconds:.1f}".removesuffix(".0") if unit == "s" and seconds < 10 else f"{seconds / size:.0f}"
            return f"{number} {unit}"
    return f"{seconds / 86_400:.0f} d"


def counted(value: int, noun: str) -> str:
    """A number and its noun, in the plural where it is due: `1 worker`, `2 workers`, `1,125 workers`."""
    return f"{value:,} {noun}{'' if value == 1 else 's'}"
