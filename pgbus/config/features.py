"""The three features of a worker: running listeners, serving procedures, running tasks."""

from __future__ import annotations

from collections.abc import Iterable

from pgbus.errors import UnsupportedUse

FEATURES = ("events", "rpcs", "tasks")


def check_features(names: Iterable[str]) -> frozenset[str]:
    """The features; raises UnsupportedUse for a name that is not a feature."""
    if isinstance(names, str):
        raise UnsupportedUse(f"features are a list, such as [{names!r}], and not a string")
    found = frozenset(names)
    for name in sorted(found - set(FEATURES), key=str):
        raise UnsupportedUse(f"there is no feature {name!r}; features are {', '.join(map(repr, FEATURES))}")
    return found


def read_features(text: str) -> frozenset[str]:
    """Return the features in a string, which commas separate."""
    return check_features([part for name in text.split(",") if (part := name.strip())])
