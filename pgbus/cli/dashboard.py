"""`pgbus dashboard`: pages on what the bus does, served to a browser."""

from __future__ import annotations

import secrets

import rich_click as click

from pgbus.cli.extras import import_extra
from pgbus.cli.global_options import database_options, load_config
from pgbus.cli.options import Count


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, metavar="HOST", help="Listen on this address.")
@click.option(
    "--port", default=8321, show_default=True, type=Count(0, 65_535), help="Listen on this port; 0: a free one."
)
@click.option(
    "--token",
    envvar="PGBUS_DASHBOARD_TOKEN",
    metavar="TOKEN",
    help="The secret that lets a browser in (PGBUS_DASHBOARD_TOKEN); default: a new one each time.",
)
@click.option(
    "--role",
    type=click.Choice(["reader", "operator", "admin"]),
    default="reader",
    show_default=True,
    help="What the bearer of the token may do: look; change; also remove.",
)
@click.option(
    "--person", metavar="NAME", envvar="PGBUS_PERSON", help="Who that is; kept with each operation (PGBUS_PERSON)."
)
@click.option(
    "--hide", "hidden", multiple=True, metavar="FIELD", help="Show no values of this payload field; repeatable."
)
@database_options
def dashboard(host: str, port: int, token: str | None, role: str, person: str | None, hidden: tuple[str, ...]) -> None:
    """Serve a dashboard of the bus, and print its address: flow, listeners, events, dead letters, doctor.

    The address has a token, without which nobody sees anything. With `--role operator` its bearer can change things.
    """
    serving = import_extra("pgbus.contrib.dashboard.serving", used_by="the dashboard", extra="dashboard")
    access = import_extra("pgbus.contrib.dashboard.access", used_by="the dashboard", extra="dashboard")
    token = token or secrets.token_urlsafe(18)
    serving.serve(
        load_config(),
        host=host,
        port=port,
        allow=access.by_token(token, name=person or "token", role=role),
        hidden=hidden,
        announce=lambda address: click.echo(f"dashboard: {address}/?token={token}"),
    )
