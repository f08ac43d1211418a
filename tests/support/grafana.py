"""Grafana's macros in SQL, as it expands them."""

from __future__ import annotations

import re

_FILTER = re.compile(r"\$__timeFilter\(([\w.]+)\)")
_GROUP = re.compile(r"\$__timeGroupAlias\(([\w.]+), \$__interval\)")


def expanded(query: str) -> str:
    """The query that PostgreSQL gets, for a range of all times."""
    query = _FILTER.sub(r"\1 BETWEEN '2000-01-01T00:00:00Z' AND '2100-01-01T00:00:00Z'", query)
    return _GROUP.sub(r'floor(extract(epoch FROM \1) / 60) * 60 AS "time"', query)
