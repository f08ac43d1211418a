"""Dashboards in Grafana's JSON model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pgbus.database.statements.charts import chart_queries
from pgbus.grafana.panels import PROMETHEUS, SQL, Panel, Query

_SCHEMA_VERSION = 39  # Grafana 10.3, and later ones read it
_COLUMNS = 24
_HEIGHTS = {"stat": 4, "timeseries": 8, "table": 8}
_SERIES = "time_series"


def prometheus_dashboard() -> dict[str, object]:
    """The dashboard on the metrics of `pgbus run --http`."""

    def target(query: Query, panel: Panel) -> dict[str, object]:
        is_table = panel.kind == "table"
        return {
            "expr": query.text,
            "legendFormat": query.legend or "__auto",
            "instant": is_table,
            "range": not is_table,
            "format": "table" if is_table else _SERIES,
        }

    return _dashboard("pgbus", PROMETHEUS, target, source="prometheus")


def sql_dashboard(namespace: str) -> dict[str, object]:
    """The dashboard on the views of a namespace, for a data source whose user is a member of `pgbus_reader`."""
    queries = chart_queries(namespace)

    def target(query: Query, panel: Panel) -> dict[str, object]:
        kind = _SERIES if panel.kind == "timeseries" else "table"
        return {"rawSql": queries[query.text], "rawQuery": True, "editorMode": "code", "format": kind}

    return _dashboard(f"{namespace} in SQL", SQL, target, source="grafana-postgresql-datasource")


def _dashboard(
    title: str, panels: Sequence[Panel], target: Callable[[Query, Panel], dict[str, object]], *, source: str
) -> dict[str, object]:
    datasource = {"type": source, "uid": "${datasource}"}
    return {
        "title": title,
        "tags": ["pgbus"],
        "schemaVersion": _SCHEMA_VERSION,
        "editable": True,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [{"name": "datasource", "label": "Data source", "type": "datasource", "query": source}]},
        "panels": [
            {
                "id": number,
                "title": panel.title,
                "type": panel.kind,
                "datasource": datasource,
                "gridPos": place,
                "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
                "options": {},
                "targets": [
                    {"refId": chr(ord("A") + index), "datasource": datasource, **target(query, panel)}
                    for index, query in enumerate(panel.queries)
                ],
            }
            for number, (panel, place) in enumerate(zip(panels, _places(panels), strict=True), 1)
        ],
    }


def _places(panels: Sequence[Panel]) -> Iterator[dict[str, int]]:
    """Rows from left to right; a panel that does not fit begins the next one."""
    x = y = height = 0
    for panel in panels:
        if x + panel.width > _COLUMNS:
            x, y, height = 0, y + height, 0
        tall = _HEIGHTS[panel.kind]
        yield {"x": x, "y": y, "w": panel.width, "h": tall}
        x, height = x + panel.width, max(height, tall)
