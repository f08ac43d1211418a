"""The journey of one event on a time axis: published, logged, and each attempt of each listener."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from pgbus.admin import EventRecord

WIDTH = 1000.0
"""The axis, in units of the drawing."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One attempt: where it begins and how long it is, in units of the drawing."""

    x: float
    width: float
    outcome: str
    title: str


@dataclass(frozen=True, slots=True)
class Lane:
    """The attempts of one listener, and where the event stands with it now."""

    listener_name: str
    state: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Journey:
    """All lanes on one axis, which begins when the event was published and is `seconds` long."""

    lanes: tuple[Lane, ...]
    logged: float
    seconds: float
    ticks: tuple[tuple[float, float], ...]


def draw_journey(record: EventRecord) -> Journey:
    """Place the instants of an event on an axis."""
    began = record.event.published_at or record.logged_at
    ends = [attempt.started_at + timedelta(seconds=attempt.duration) for attempt in record.attempts]
    seconds = max((max([record.logged_at, *ends]) - began).total_seconds(), 0.001) * 1.02

    def x(instant: datetime) -> float:
        return max(0.0, (instant - began).total_seconds() / seconds * WIDTH)

    names = dict.fromkeys(
        [one.listener_name for one in record.attempts]
        + [one.listener_name for one in record.given_up]
        + [one.listener_name for one in record.owed]
    )
    states = record.states
    lanes = tuple(
        Lane(
            name,
            states.get(name, ""),
            tuple(
                Bar(
                    x(one.started_at),
                    max(3.0, one.duration / seconds * WIDTH),
                    one.outcome,
                    f"attempt {one.attempt}: {one.outcome} after {one.duration * 1000:.1f} ms on {one.worker}",
                )
                for one in record.attempts
                if one.listener_name == name
            ),
        )
        for name in names
    )
    ticks = tuple((step * WIDTH / 4, step * seconds / 4) for step in range(5))
    return Journey(lanes, x(record.logged_at), seconds, ticks)
