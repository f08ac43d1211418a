"""`pgbus grafana`: dashboards and alert rules, to import or to provision."""

from __future__ import annotations

from typing import Literal

import msgspec
import rich_click as click
import yaml

from pgbus.cli.global_options import database_options, load_config
from pgbus.grafana import alert_rules, prometheus_dashboard, sql_dashboard


@click.command()
@click.argument("kind", type=click.Choice(["prometheus", "sql", "alerts"]))
@database_options
def grafana(kind: Literal["prometheus", "sql", "alerts"]) -> None:
    """Print a dashboard for Grafana as JSON (on Prometheus, or on the views in SQL), or alert rules as YAML."""
    match kind:
        case "prometheus":
            click.echo(_json(prometheus_dashboard()))
        case "sql":
            click.echo(_json(sql_dashboard(load_config().namespace)))
        case "alerts":
            click.echo(yaml.safe_dump(alert_rules(), sort_keys=False, width=1_000, allow_unicode=True), nl=False)


def _json(dashboard: dict[str, object]) -> str:
    return msgspec.json.format(msgspec.json.encode(dashboard), indent=2).decode()
