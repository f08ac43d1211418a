"""`pgbus demo`: a shop on an embedded PostgreSQL, and a check of what it did."""

from __future__ import annotations

import rich_click as click

from pgbus.cli.extras import import_extra
from pgbus.cli.global_options import database_options, load_config
from pgbus.cli.options import Count
from pgbus.cli.signals import interrupt_by_signals


@click.command()
@click.option("--orders", default=400, show_default=True, type=Count(1, 1_000_000), help="Place this many orders.")
@click.option(
    "--existing-database",
    is_flag=True,
    help="Use the configured database, in which the demo leaves a schema `shop`; default: an embedded PostgreSQL.",
)
@click.option("--no-worker", is_flag=True, help="Start no worker: `pgbus run pgbus.demo` runs already.")
@click.option("--dashboard", is_flag=True, help="Serve the dashboard of a shop that is open until Ctrl-C.")
@click.option("--port", default=8321, show_default=True, type=Count(0, 65_535), help="Port of the dashboard.")
@database_options
@click.pass_context
def demo(
    context: click.Context, *, orders: int, existing_database: bool, no_worker: bool, dashboard: bool, port: int
) -> None:
    """Run a shop on an embedded PostgreSQL: orders, failures, retries, a dead letter, and a check of it all.

    It leaves PGBUS_DSN alone, unless you add `--existing-database`. Exit code 1: the check failed.
    """
    interrupt_by_signals()
    if dashboard:
        if existing_database or no_worker:
            raise click.UsageError("--dashboard has a database and workers of its own")
        import_extra("pgbus.contrib.dashboard.serving", used_by="the dashboard", extra="dashboard")
        from pgbus.demo.open_shop import keep_open

        context.exit(keep_open(port=port))
    from pgbus.demo.demonstration import demonstrate

    # The queries of the demo name the schema pgbus.
    config = load_config(namespace="pgbus") if existing_database else None
    context.exit(demonstrate(config, orders=orders, with_worker=not no_worker))
