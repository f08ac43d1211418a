"""Plots as SVG, written by hand: the same figures give the same bytes, so a repeated run shows what has changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 720
FONT = 'font-family="system-ui, sans-serif"'
COLOURS = ("#1f5fa8", "#c8553d", "#3f8f5b", "#8a5fa8", "#b08a2e", "#1f9e9e", "#555555")


@dataclass(frozen=True)
class Bar:
    """A value with the least and the greatest of its runs, and how it is written."""

    name: str
    value: float
    least: float
    greatest: float
    text: str


@dataclass(frozen=True)
class Line:
    """Points of one kind, in the order of x."""

    name: str
    points: Sequence[tuple[float, float]]


def bars(title: str, unit: str, shown: Sequence[Bar]) -> str:
    """Bars from left to right, one per row; a thin line spans the runs. The first one is drawn in another colour."""
    row, left, top = 30, 170, 58
    height = top + row * len(shown) + 14
    scale = (WIDTH - left - 120) / (max(one.greatest for one in shown) or 1)
    parts = []
    for number, one in enumerate(shown):
        y = top + row * number
        start, end, middle = left + one.least * scale, left + one.greatest * scale, y + 11
        colour = COLOURS[0] if number == 0 else "#9aa7b5"
        parts += [
            f'<text x="{left - 10}" y="{y + 15}" text-anchor="end" font-size="13">{escape(one.name)}</text>',
            f'<rect x="{left}" y="{y + 2}" width="{one.value * scale:.1f}" height="18" fill="{colour}"/>',
            f'<line x1="{start:.1f}" x2="{end:.1f}" y1="{middle}" y2="{middle}" stroke="#222222" stroke-width="1.5"/>',
            f'<text x="{end + 8:.1f}" y="{y + 15}" font-size="13">{escape(one.text)}</text>',
        ]
    return _page(title, unit, height, parts)


def lines(title: str, x_name: str, y_name: str, shown: Sequence[Line]) -> str:
    """Lines in a diagram whose axes are both logarithmic: what grows linearly has the slope of the grey line."""
    left, top, right, bottom = 70, 64, WIDTH - 30, 360
    points = [point for line in shown for point in line.points if point[0] > 0 and point[1] > 0]
    low_x, high_x = _decades([x for x, _ in points])
    low_y, high_y = _decades([y for _, y in points])

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + (math.log10(x) - low_x) / (high_x - low_x) * (right - left),
            bottom - (math.log10(y) - low_y) / (high_y - low_y) * (bottom - top),
        )

    parts = []
    for decade in range(low_x, high_x + 1):
        x, _ = at(10.0**decade, 10.0**low_y)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}" stroke="#e3e6ea"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle" font-size="12">{_power(decade)}</text>')
    for decade in range(low_y, high_y + 1):
        _, y = at(10.0**low_x, 10.0**decade)
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e3e6ea"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end" font-size="12">{_power(decade)}</text>')
    steps = min(high_x - low_x, high_y - low_y)
    (x1, y1), (x2, y2) = at(10.0**low_x, 10.0**low_y), at(10.0 ** (low_x + steps), 10.0 ** (low_y + steps))
    parts.append(
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#b9c0c8" stroke-dasharray="5 4"/>'
    )
    for number, line in enumerate(shown):
        colour = COLOURS[number % len(COLOURS)]
        places = [at(*point) for point in line.points if point[0] > 0 and point[1] > 0]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        x, y = left, bottom + 64 + 20 * number
        parts.append(f'<text x="{x}" y="{y}" font-size="13" fill="{colour}">{escape(line.name)}</text>')
    x, y = (left + right) // 2, bottom + 38
    parts.append(f'<text x="{x}" y="{y}" text-anchor="middle" font-size="13">{escape(x_name)}</text>')
    return _page(title, f"{y_name}; the dashed line grows linearly", bottom + 58 + 20 * len(shown), parts)


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _power(decade: int) -> str:
    return f"{10**decade:,}" if 0 <= decade <= 4 else (f"{10.0**decade:g}" if decade < 0 else f"1e{decade}")


def _page(title: str, unit: str, height: int, parts: Sequence[str]) -> str:
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" {FONT}>',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="14" y="24" font-size="16" font-weight="600">{escape(title)}</text>',
        f'<text x="14" y="44" font-size="13" fill="#555555">{escape(unit)}</text>',
    ]
    return "\n".join([*head, *parts, "</svg>"]) + "\n"
