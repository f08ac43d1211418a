"""How values look on a page: filters of the templates, and charts as SVG or as data for the browser."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from pgbus.contrib.dashboard.changes import CHANGES
from pgbus.database.statements.dashboard import Flow, Rate
from pgbus.telemetry.durations import duration

HIDDEN = "(hidden)"


def make_environment() -> Environment:
    """The templates, in which everything is escaped."""
    environment = Environment(
        loader=PackageLoader("pgbus.contrib.dashboard"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, lasting=lasting, stamp=stamp)
    environment.globals["changes"] = CHANGES
    return environment


def number(value: float) -> str:
    """A number with separators between thousands."""
    return f"{value:,.0f}".replace(",", "\u202f")


def lasting(seconds: float | None) -> str:
    """A duration in its largest sensible unit, `-` for None."""
    return "-" if seconds is None else duration(seconds)


def stamp(then: datetime | None) -> str:
    """An instant in UTC, to the millisecond."""
    return "" if then is None else then.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def masked(raw: str | None, hidden: Collection[str]) -> str:
    """JSON on several lines, with the values of some fields hidden wherever they stand."""
    if raw is None:
        return ""
    try:
        value = _hide(msgspec.json.decode(raw), frozenset(hidden)) if hidden else msgspec.Raw(raw.encode())
        return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    except (msgspec.MsgspecError, RecursionError):
        return HIDDEN if hidden else raw


def _hide(value: Any, hidden: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {name: HIDDEN if name in hidden else _hide(one, hidden) for name, one in value.items()}
    return [_hide(one, hidden) for one in value] if isinstance(value, list) else value


def rate_chart(rates: Sequence[Rate]) -> str:
    """The series of a chart of events per second, as JSON for the browser."""
    # The newest quarter of a minute is not over.
    past = rates[:-1]
    return msgspec.json.encode(
        {
            "unit": "/s",
            "x": [one.beginning.timestamp() for one in past],
            "series": [
                {"label": "handled", "colour": "good", "y": [one.done / 15 for one in past]},
                {"label": "failed", "colour": "bad", "y": [one.failed / 15 for one in past]},
            ],
        }
    ).decode()


def duration_chart(rates: Sequence[Rate]) -> str:
    """The series of a chart of durations in milliseconds, as JSON for the browser."""
    past = rates[:-1]
    return msgspec.json.encode(
        {
            "unit": " ms",
            "x": [one.beginning.timestamp() for one in past],
            "series": [
                {
                    "label": label,
                    "colour": colour,
                    "y": [None if one.quantiles is None else 1000 * one.quantiles[index] for one in past],
                }
                for index, (label, colour) in enumerate((("p50", "good"), ("p95", "some"), ("p99", "bad")))
            ],
        }
    ).decode()


def flow_map(flows: Sequence[Flow], lags: dict[str, float]) -> str:
    """The nodes and edges of the map from services by topics to listeners, as JSON for the browser."""
    nodes: dict[str, dict[str, object]] = {}
    edges: list[dict[str, object]] = []
    for flow in flows:
        topic = f"topic {flow.topic}"
        if topic not in nodes:
            nodes[topic] = {"kind": "topic", "label": flow.topic, "href": f"events?topic={flow.topic}"}
            for service in flow.services:
                nodes[f"service {service}"] = {"kind": "service", "label": service, "href": ""}
                edges.append({"from": f"service {service}", "to": topic, "events": flow.events, "lag": 0})
        if flow.listener_name is not None:
            lag = lags.get(flow.listener_name, 0.0)
            nodes[f"listener {flow.listener_name}"] = {
                "kind": "listener", "label": flow.listener_name, "href": f"listeners/{flow.listener_name}", "lag": lag,
            }  # fmt: skip
            edges.append({"from": topic, "to": f"listener {flow.listener_name}", "events": flow.events, "lag": lag})
    return msgspec.json.encode({"nodes": nodes, "edges": edges}).decode()
