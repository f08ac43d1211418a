"""The page of metrics has a row for every metric, with its type and labels, and none for others."""

from __future__ import annotations

import re

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

import pgbus
from pgbus.contrib.prometheus.database import DatabaseMetrics
from pgbus.contrib.prometheus.process import ProcessMetrics
from pgbus.grafana.alerts import ALERTS
from tests.support import ROOT

PAGE = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
ROWS = {
    name: (kind, sorted(re.findall(r"`(\w+)`", labels)))
    for name, kind, labels in re.findall(r"^\| `(pgbus_\w+)` \| (\w+) \| [^|]+ \|([^|]*)\|", PAGE, re.MULTILINE)
}


def exposed(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


def every_family() -> dict[str, str]:
    """The type of every metric by its name, as it is exposed."""
    registry = CollectorRegistry()
    bus = pgbus.create("postgresql:///nowhere")
    ProcessMetrics(bus, registry=registry)
    database = DatabaseMetrics(bus.config, registry=registry)
    families = [*registry.collect(), *database.describe()]
    return {exposed(family): family.type for family in families}


def test_every_metric_has_a_row_with_its_type() -> None:
    assert {name: kind for name, (kind, _) in ROWS.items()} == every_family()


def test_every_row_has_the_labels_of_the_code() -> None:
    metrics = ProcessMetrics(pgbus.create("postgresql:///nowhere"))
    of_process = {
        exposed(metric.describe()[0]): sorted(metric._labelnames)
        for metric in vars(metrics).values()
        if hasattr(metric, "_labelnames")
    }
    assert {name: labels for name, (_, labels) in ROWS.items() if name in of_process} == of_process


def test_a_name_says_its_unit() -> None:
    for name, (kind, _) in ROWS.items():
        assert name.endswith("_total") == (kind == "counter"), name
        assert name.endswith("_seconds") or kind != "histogram", name


def test_the_page_has_every_alert() -> None:
    for alert in ALERTS:
        row = f"| `{alert.name}` | {alert.severity}, after {alert.duration} | `{alert.expression}` | {alert.remedy} |"
        assert row in PAGE, row
