"""`pgbus dev`: a PostgreSQL for development that runs as long as the command."""

from __future__ import annotations

import shlex
from pathlib import Path

import rich_click as click

from pgbus.cli.global_options import database_options, load_config
from pgbus.cli.options import Count
from pgbus.cli.signals import ignore_hangups, interrupt_by_signals, wait_for_interrupt
from pgbus.cli.streams import say
from pgbus.database import migrate
from pgbus.embedded import EmbeddedPostgres


@click.command()
@database_options
@click.option(
    "--datadir",
    type=click.Path(file_okay=False, writable=True, path_type=Path),
    help="Keep the data here; default: a temporary directory, deleted when the command ends.",
)
@click.option("--port", type=Count(1, 65_535), help="Also listen on 127.0.0.1; default: a unix socket only.")
@click.option(
    "--migrate/--no-migrate", "wants_schema", default=True, show_default=True, help="Upgrade the schema first."
)
def dev(*, datadir: Path | None, port: int | None, wants_schema: bool) -> None:
    """Start an embedded PostgreSQL, print its DSN for a shell, and stop it on Ctrl-C, SIGTERM or SIGHUP."""
    interrupt_by_signals()
    namespace = load_config().namespace
    with EmbeddedPostgres(datadir, port=port, listen=port is not None) as server:
        dsn = server.dsn()
        if wants_schema:
            migrate.upgrade(dsn, namespace=namespace)
        try:
            # Alone on stdout, so that a script can read it, and only there: with --port it holds a password.
            click.echo(f"export PGBUS_DSN={shlex.quote(dsn)}")
            say("PostgreSQL runs; run the line above in the other shells. Ctrl-C stops it.")
            wait_for_interrupt()
        except KeyboardInterrupt:
            ignore_hangups()
            say("stopping")
