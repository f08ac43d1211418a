"""Every query of the dashboards and alerts runs, or is read by a parser, and names only what there is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import asyncpg
import promql_parser
import pytest
import yaml
from click.testing import CliRunner

from pgbus.cli.program import pgbus as command
from pgbus.grafana import alert_rules, prometheus_dashboard, sql_dashboard
from pgbus.grafana.alerts import ALERTS
from pgbus.grafana.panels import PROMETHEUS
from tests.support.grafana import expanded
from tests.support.waiting import PATIENCE, eventually
from tests.support.workers import open_bus, running, until_idle
from tests.unit.test_metrics_page import ROWS

EXPRESSIONS = [query.text for panel in PROMETHEUS for query in panel.queries] + [one.expression for one in ALERTS]


def is_known(name: str) -> bool:
    if name in ROWS:
        return True
    histogram, _, part = name.rpartition("_")
    return ROWS.get(histogram, ("",))[0] == "histogram" and part in ("bucket", "count", "sum")


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_expression_is_promql_over_known_metrics_and_labels(expression: str) -> None:
    text = expression.replace("$__rate_interval", "5m")
    promql_parser.parse(text)
    names = set(re.findall(r"\bpgbus_\w+", text))
    assert names
    assert [name for name in names if not is_known(name)] == []
    known = {label for name in names for label in labels_of(name)} | {"le", "instance"}
    asked = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", text) for label in group.split(",")}
    matched = set(re.findall(r'[{,]\s*(\w+)\s*(?:=|!=|=~|!~)\s*"', text))
    assert (asked | matched) - known == set()


def panels_of(dashboard: Mapping[str, object]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(json.dumps(dashboard))["panels"]
    return found


def labels_of(name: str) -> list[str]:
    return (ROWS.get(name) or ROWS[name.rpartition("_")[0]])[1]


def test_every_metric_is_on_the_dashboard() -> None:
    shown = " ".join(query.text for panel in PROMETHEUS for query in panel.queries)
    assert [name for name in ROWS if name not in shown] == []


def test_a_legend_names_labels_of_its_query() -> None:
    for panel in PROMETHEUS:
        for query in panel.queries:
            for label in re.findall(r"{{(\w+)}}", query.legend):
                assert re.search(rf"\bby \([^)]*\b{label}\b", query.text), query


async def test_every_query_of_the_sql_dashboard_runs_and_finds_rows(
    database: str, connection: asyncpg.Connection
) -> None:
    async with open_bus(database) as bus:

        @bus.listener("a.*", name="half", retry=1)
        async def half(event: int) -> None:
            if event % 2:
                raise ValueError("odd")

        @bus.listener("b.*", name="blocked", ordered=True, retry=1, on_poison="block")
        async def blocked(event: int) -> None:
            raise ValueError("always")

        @bus.procedure("math.double")
        async def double(n: int) -> int:
            return 2 * n

        @bus.client.every(hours=1, also_run_immediately=True, name="nightly")
        async def nightly() -> None:
            pass

        async with running(bus):
            await bus.publish_many([1, 2], topic="a.b")
            assert await bus.call("math.double", {"n": 1}) == 2
            await until_idle(connection)
            await bus.publish_many([1, 2], topic="a.b")
            for n in range(2):
                await bus.publish(n, topic="b.c", key="k")

            async def is_blocked() -> bool:
                return bool(await connection.fetchval("SELECT count(*) FROM pgbus.pending WHERE state = 'blocked'"))

            await eventually(is_blocked, PATIENCE)
            await bus.publish(3, topic="a.b", delay=3600)
            for panel in panels_of(sql_dashboard("pgbus")):
                for target in panel["targets"]:
                    rows = await connection.fetch(expanded(target["rawSql"]))
                    assert rows, target["rawSql"]
                    if target["format"] == "time_series":
                        assert list(rows[0].keys()) == ["time", "metric", "value"]


def test_the_dashboard_of_another_namespace_asks_its_views() -> None:
    text = json.dumps(sql_dashboard("bus_2"))
    assert '\\"bus_2\\".listener_lag' in text
    assert "pgbus." not in text


def test_panels_fill_rows_and_do_not_overlap() -> None:
    for dashboard in (prometheus_dashboard(), sql_dashboard("pgbus")):
        taken: set[tuple[int, int]] = set()
        for panel in panels_of(dashboard):
            place = panel["gridPos"]
            cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
            assert not cells & taken
            assert place["x"] + place["w"] <= 24
            taken |= cells
        assert len({panel["id"] for panel in panels_of(dashboard)}) == len(panels_of(dashboard))


@pytest.mark.parametrize("kind", ["prometheus", "sql"])
def test_the_command_prints_a_dashboard(kind: str) -> None:
    answer = CliRunner().invoke(command, ["grafana", kind])
    assert answer.exit_code == 0, answer.output
    dashboard = prometheus_dashboard() if kind == "prometheus" else sql_dashboard("pgbus")
    assert json.loads(answer.output) == json.loads(json.dumps(dashboard))


def test_the_command_prints_alert_rules() -> None:
    answer = CliRunner().invoke(command, ["grafana", "alerts"])
    assert yaml.safe_load(answer.output) == alert_rules()
    assert all(one.remedy.endswith(".") for one in ALERTS)
