"""`pgbus dev`: a PostgreSQL of one's own, for as long as the command runs."""

from __future__ import annotations

import signal
from pathlib import Path

import rich_click as click

from pgbus import migrate
from pgbus.cli.options import database_options, load_config
from pgbus.embedded import EmbeddedPostgres


@click.command()
@database_options
@click.option(
    "--datadir",
    type=click.Path(file_okay=False, writable=True, path_type=Path),
    help="Keep the data here; default: a temporary directory, gone when the command ends.",
)
@click.option(
    "--port", type=click.IntRange(1, 65_535), help="Listen on 127.0.0.1 as well; default: a unix socket only."
)
@click.option(
    "--migrate/--no-migrate", "wants_schema", default=True, show_default=True, help="Upgrade the schema first."
)
def dev(*, datadir: Path | None, port: int | None, wants_schema: bool) -> None:
    """Start an embedded PostgreSQL, print its DSN, and keep it until Ctrl-C or SIGTERM."""
    # As Ctrl-C does; not its own handler, for a shell lets commands in the background ignore Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    namespace = load_config().namespace
    with EmbeddedPostgres(datadir, port=port, listen=port is not None) as server:
        dsn = server.dsn()
        if wants_schema:
            migrate.upgrade(dsn, namespace=namespace)
        # Alone on stdout, so that a script can read it, and only there: with --port it holds a password.
        click.echo(dsn)
        click.echo("PostgreSQL runs; give its DSN to others as PGBUS_DSN. Ctrl-C stops it.", err=True)
        _wait_for_signal()


def _wait_for_signal() -> None:
    try:
        while True:
            signal.pause()
    except KeyboardInterrupt:
        click.echo("stopping", err=True)
