"""A tree of causes as a sequence diagram: a line for each service, an arrow for each delivery, call and answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pgbus.contrib.dashboard.showing import lasting
from pgbus.database.statements.dashboard import TreeAttempt, TreeNode

LEFT = 90.0
"""Room for the times, in units of the drawing."""

COLUMN = 250.0
ROW = 40.0
TOP = 60.0
MOST = 60
"""Arrows that are drawn; of more the first."""

NOBODY = "(nobody)"


@dataclass(frozen=True, slots=True)
class Step:
    """One arrow: when, from which service to which, and what it says."""

    at: datetime
    begin: str
    end: str
    label: str
    kind: Literal["event", "call", "answer", "run"]
    outcome: str
    title: str
    href: str


@dataclass(frozen=True, slots=True)
class Arrow:
    """A step at its place; `x1` equals `x2` for what a service does by itself."""

    step: Step
    time: str
    x1: float
    x2: float
    y: float


@dataclass(frozen=True, slots=True)
class Diagram:
    """The whole diagram; `left_out` arrows have no room."""

    services: tuple[tuple[str, float], ...]
    arrows: tuple[Arrow, ...]
    width: float
    height: float
    left_out: int


def draw_sequence(nodes: Sequence[TreeNode]) -> Diagram:
    """Place the steps of a tree below each other, in the order of their times."""
    steps = sorted((step for node in nodes for step in _steps(node)), key=lambda step: step.at)
    shown = steps[:MOST]
    names = list(dict.fromkeys(name for step in shown for name in (step.begin, step.end)))
    places = {name: LEFT + COLUMN * (index + 0.5) for index, name in enumerate(names)}
    arrows = tuple(
        Arrow(
            step,
            _after(step.at - steps[0].at),
            places[step.begin],
            places[step.end],
            TOP + ROW * (index + 0.6),
        )
        for index, step in enumerate(shown)
    )
    return Diagram(
        tuple(places.items()),
        arrows,
        LEFT + COLUMN * max(1, len(names)),
        TOP + ROW * (len(shown) + 0.5),
        len(steps) - len(shown),
    )


def _after(time: timedelta) -> str:
    return f"+{lasting(time.total_seconds())}" if time else "0"


def _steps(node: TreeNode) -> Iterator[Step]:
    if node.kind == "event":
        yield from _deliveries(node)
    elif node.kind == "call":
        yield from _call(node)
    else:
        yield Step(node.at, node.service, node.service, node.name, "run", node.state or "", f"run: {node.state}", "")


def _deliveries(node: TreeNode) -> Iterator[Step]:
    href = f"/events/{node.id}"
    by_listener: dict[str, list[TreeAttempt]] = {}
    for one in node.attempts:
        by_listener.setdefault(one.listener_name, []).append(one)
    for name, attempts in by_listener.items():
        last = attempts[-1]
        tries = f" ({len(attempts)} attempts)" if len(attempts) > 1 else ""
        title = f"{node.name} -> {name}: {last.outcome}{tries}, {lasting(sum(one.duration for one in attempts))}"
        yield Step(
            attempts[0].started_at, node.service or "?", last.service or name, f"{node.name} \u2192 {name}{tries}",
            "event", last.outcome, title, href,
        )  # fmt: skip
    if not by_listener:
        title = f"{node.name}: no listener has tried it"
        yield Step(node.at, node.service or "?", node.service or "?", node.name, "event", "none", title, href)


def _call(node: TreeNode) -> Iterator[Step]:
    href, server = f"/calls/{node.id}", node.served_by or NOBODY
    title = f"call of {node.name}: {node.state}"
    yield Step(node.at, node.service or "?", server, f"{node.name}()", "call", node.state or "", title, href)
    if node.responded_at is not None:
        # An answer comes after its call, also where two clocks or a coarse one say otherwise.
        at = max(node.responded_at, node.at + timedelta(microseconds=1))
        yield Step(at, server, node.service or "?", node.state or "", "answer", node.state or "", title, href)
