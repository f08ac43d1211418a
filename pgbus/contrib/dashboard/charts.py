"""Charts of the chronicle: series as JSON for the browser, and strips of coloured cells as places in an SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

import msgspec

from pgbus.contrib.dashboard.chronicle import Chronicle
from pgbus.contrib.dashboard.showing import lasting
from pgbus.database.statements.dashboard import QUARTER, Flow, Interval

LEVELS = (1.0, 5.0, 30.0, 300.0)
"""Seconds of lag at which a cell gets the next colour."""

Series = tuple[str, str, Sequence[float | None]]


def rate_chart(chronicle: Chronicle) -> str:
    """Events per second of all listeners."""
    return _chart(
        chronicle.instants,
        "/s",
        ("handled", "good", [chronicle.done(instant) / QUARTER for instant in chronicle.instants]),
        ("failed", "bad", [chronicle.failed(instant) / QUARTER for instant in chronicle.instants]),
    )


def listener_charts(chronicle: Chronicle, listener_name: str) -> dict[str, str]:
    """Events per second, the share of attempts that failed, durations and lag of one listener."""
    found = chronicle.of(listener_name)
    done = [one.done / QUARTER if one else 0.0 for one in found]
    failed = [one.failed / QUARTER if one else 0.0 for one in found]
    quantiles = [
        (label, colour, [1000 * one.quantiles[index] if one and one.quantiles else None for one in found])
        for index, (label, colour) in enumerate((("p50", "good"), ("p95", "some"), ("p99", "bad")))
    ]
    shares = [100 * failure_share([one]) if one else None for one in found]
    return {
        "rates": _chart(chronicle.instants, "/s", ("handled", "good", done), ("failed", "bad", failed)),
        "failures": _chart(chronicle.instants, " %", ("failed attempts", "bad", shares)),
        "durations": _chart(chronicle.instants, " ms", *quantiles),
        "lags": _chart(chronicle.instants, " s", ("lag", "lag", [one.lag if one else None for one in found])),
    }


def failure_share(intervals: Sequence[Interval]) -> float:
    """The share of events at which an attempt failed, among all that were tried."""
    failed = sum(one.failed for one in intervals)
    tried = failed + sum(one.done for one in intervals)
    return failed / tried if tried else 0.0


def _chart(instants: Sequence[datetime], unit: str, *series: Series) -> str:
    return msgspec.json.encode(
        {
            "unit": unit,
            "x": [instant.timestamp() for instant in instants],
            "series": [{"label": label, "colour": colour, "y": values} for label, colour, values in series],
        }
    ).decode()


# --------------------------------------------------------------------------------------------------------------- strips


@dataclass(frozen=True, slots=True)
class Cell:
    """Neighbours with the same level: where they begin, how many they are, and 0 to 4 for how bad they are."""

    x: int
    width: int
    level: int


@dataclass(frozen=True, slots=True)
class Strip:
    """The lag of one listener over 15 minutes, oldest first; what it did not do has no cell."""

    cells: tuple[Cell, ...]
    title: str


def lag_strip(chronicle: Chronicle, listener_name: str, *, now: float) -> Strip:
    """Draw the lag over time; `now` is its lag in seconds, which says how long nothing has been handled, too."""
    lags = [one.lag if one else None for one in chronicle.of(listener_name)]
    for step in range(1, len(lags) + 1):
        waited = now - QUARTER * step
        if lags[-step] is not None or waited < 0:
            break
        lags[-step] = waited
    known = [lag for lag in lags if lag is not None]
    title = f"at most {lasting(max(known))} in 15 minutes, {lasting(now)} now" if known else "nothing in 15 minutes"
    return Strip(tuple(_cells(lags)), title)


def _cells(lags: Sequence[float | None]) -> Iterator[Cell]:
    x = 0
    for level, members in groupby(None if lag is None else sum(lag >= limit for limit in LEVELS) for lag in lags):
        width = len(list(members))
        if level is not None:
            yield Cell(x, width, level)
        x += width


# ------------------------------------------------------------------------------------------------------------- the map


def flow_map(flows: Sequence[Flow], lags: dict[str, float]) -> str:
    """The nodes and edges of the map from services by topics to listeners, as JSON for the browser."""
    nodes: dict[str, dict[str, object]] = {}
    edges: list[dict[str, object]] = []
    for flow in flows:
        topic = f"topic {flow.topic}"
        if topic not in nodes:
            nodes[topic] = {"kind": "topic", "label": flow.topic, "href": f"events?topic={flow.topic}"}
            for service in flow.services:
                nodes[f"service {service}"] = {
                    "kind": "service", "label": service, "href": f"events?service={service}",
                }  # fmt: skip
                edges.append(_edge(f"service {service}", topic, flow, 0.0))
        if flow.listener_name is not None:
            lag = lags.get(flow.listener_name, 0.0)
            nodes[f"listener {flow.listener_name}"] = {
                "kind": "listener", "label": flow.listener_name, "href": f"listeners/{flow.listener_name}", "lag": lag,
            }  # fmt: skip
            edges.append(_edge(topic, f"listener {flow.listener_name}", flow, lag))
    return msgspec.json.encode({"nodes": nodes, "edges": edges}).decode()


def _edge(begin: str, end: str, flow: Flow, lag: float) -> dict[str, object]:
    # Rounded, so that the map is drawn again when something has changed that one can see.
    level = sum(lag >= limit for limit in LEVELS)
    return {"from": begin, "to": end, "rate": float(f"{flow.rate or 0:.1g}"), "events": flow.events and 1, "lag": level}
