"""How values look on a page: filters of the templates."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from pgbus.contrib.dashboard.changes import CHANGES
from pgbus.telemetry import figures

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
    environment.filters.update(number=number, counted=counted, lasting=lasting, stamp=stamp, plain=plain)
    environment.globals["changes"] = CHANGES
    return environment


def number(value: float) -> str:
    """A number with separators between thousands."""
    return f"{value:,.0f}".replace(",", "\u202f")


def counted(value: int, noun: str) -> str:
    """A number and its noun, in the plural where it is due."""
    return figures.counted(value, noun).replace(",", "\u202f")


def lasting(seconds: float | None) -> str:
    """A duration in its largest sensible unit, `-` for None."""
    return "-" if seconds is None else figures.duration(seconds)


def stamp(then: datetime | None) -> str:
    """An instant in UTC, to the millisecond."""
    return "" if then is None else then.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def plain(value: object) -> str:
    """A value of JSON on one line, as a person would write it."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


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
