"""Queries that Grafana runs on the views, and not we."""

from __future__ import annotations

from collections.abc import Mapping

from pgbus.database import sql

PREFIX = "chart_"


def chart_queries(namespace: str) -> Mapping[str, str]:
    """The queries of the dashboard by their names without `chart_`, with Grafana's macros in them."""
    statements = sql.load(namespace)
    return {name.removeprefix(PREFIX): one.text for name, one in statements.items() if name.startswith(PREFIX)}
