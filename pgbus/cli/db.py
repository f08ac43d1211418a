"""`pgbus db`: upgrade and check the schema, and create roles."""

from __future__ import annotations

import rich_click as click

from pgbus import inbox
from pgbus.cli.changing import change, change_options
from pgbus.cli.global_options import database_options, load_config
from pgbus.cli.options import confirm, json_option
from pgbus.cli.output import print_json
from pgbus.cli.printable import on_one_line
from pgbus.config import Config
from pgbus.database import migrate
from pgbus.database.migrate.roles import ROLES


@click.group()
@database_options
def db() -> None:
    """Upgrade, downgrade and check the bus's schema in the database."""


@db.command()
@click.argument("revision", default="head")
@database_options
@json_option
def upgrade(revision: str, as_json: bool) -> None:
    """Upgrade the schema to REVISION (default: the newest), or create it.

    Many processes may do so at the same time.
    """
    config = load_config()
    migrate.upgrade(config.session_dsn, namespace=config.namespace, revision=revision)
    _say_revision(config, as_json=as_json)


@db.command()
@click.argument("revision")
@database_options
@click.option("--yes", is_flag=True, help="Do not ask; a script has to give it.")
@json_option
def downgrade(revision: str, yes: bool, as_json: bool) -> None:
    """Downgrade the schema to REVISION; `base` removes all tables with their rows, the log among them."""
    config = load_config()
    if not yes:
        confirm(f"downgrade {config.namespace} to {revision}, and lose the rows of what later revisions have made?")
    migrate.downgrade(config.session_dsn, namespace=config.namespace, revision=revision)
    _say_revision(config, as_json=as_json)


def _say_revision(config: Config, *, as_json: bool) -> None:
    found = migrate.current(config.session_dsn, namespace=config.namespace)
    if as_json:
        print_json(_revision(config, found))
    else:
        click.echo(f"{config.namespace} is at {found or 'base'}")


def _revision(config: Config, found: str | None) -> dict[str, str | None]:
    return {"namespace": config.namespace, "current": found, "head": migrate.head()}


@db.command()
@database_options
@json_option
def current(as_json: bool) -> None:
    """Show the revision of the database's schema, and the revision that this code was made for."""
    config = load_config()
    found, needed = migrate.current(config.session_dsn, namespace=config.namespace), migrate.head()
    if as_json:
        print_json(_revision(config, found))
    else:
        click.echo(f"{found or 'base'}{'' if found == needed else f' (this code was made for {needed})'}")


@db.command("sql")
@click.argument("revision", default="head")
@database_options
@click.option("--from", "start", metavar="REVISION", help="Upgrade from this revision; default: from nothing.")
def show_sql(revision: str, start: str | None) -> None:
    """Print the SQL of an upgrade, without a database, to run it by hand."""
    click.echo(migrate.sql(namespace=load_config().namespace, start=start, revision=revision))


@db.command("inbox")
@database_options
def show_inbox() -> None:
    """Print the SQL that creates an inbox in a handler's own database."""
    for statement in inbox.ddl(namespace=load_config().namespace):
        click.echo(f"{statement};")


@db.command()
@database_options
@json_option
def check(as_json: bool) -> None:
    """Check that the database's schema fits this code; exit code 3 if it does not."""
    config = load_config()
    migrate.check(config.session_dsn, namespace=config.namespace)
    found, made_for = migrate.current(config.session_dsn, namespace=config.namespace), migrate.head()
    if as_json:
        print_json(_revision(config, found))
        return
    fit = "which this code was made for" if found == made_for else f"on which this code for {made_for} runs as well"
    click.echo(f"{config.namespace} is at {found}, {fit}")


@db.command()
@database_options
@json_option
def roles(as_json: bool) -> None:
    """Create the group roles for publishers, callers, workers, readers, operators and admins, and grant their
    rights.

    Run it as the schema's owner, and again after each upgrade. Then grant the roles: GRANT pgbus_publisher TO web.
    """
    config = load_config()
    migrate.grant_roles(config.session_dsn, namespace=config.namespace)
    names = [f"{config.namespace}_{role}" for role in ROLES]
    if as_json:
        print_json({"granted": names})
    else:
        click.echo(f"granted: {', '.join(names)}")


@db.command()
@database_options
@change_options
@json_option
def adopt(*, reason: str | None, person: str | None, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Say that this copy of a database is the one to work in, and resume what was paused because it is a copy.

    After a restore or pg_upgrade, before or after the first worker has started. Not for a copy for tests: there, resume
    the listeners that may run.
    """
    done = change("adopt", {}, what="database", reason=reason, person=person, dry_run=dry_run, yes=yes, as_json=as_json)
    if done is None:
        return
    if as_json:
        print_json(done)
        return
    resumed = [*done.result["listeners"], *done.result["schedules"]]
    click.echo(f"adopted (operation {done.id}); resumed: {', '.join(map(on_one_line, resumed)) or 'nothing'}")
