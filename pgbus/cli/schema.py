"""`pgbus schema`: write the schemas of APIs to files, check them in CI, compare them, and write stubs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import rich_click as click
from click import get_current_context
from rich.text import Text

import pgbus
from pgbus.cli.exits import FAILED
from pgbus.cli.global_options import database_options, load_config, pass_on
from pgbus.cli.group import PgbusGroup
from pgbus.cli.loading import load_bus
from pgbus.cli.options import json_option, with_admin
from pgbus.cli.output import console, print_json
from pgbus.cli.printable import printable
from pgbus.schema import Declaration, Stored
from pgbus.schema.asyncapi import to_asyncapi
from pgbus.schema.compatibility import (
    ANY_LISTENER,
    Break,
    Change,
    find_broken,
    find_changes,
    find_unreadable,
    in_use,
    latest,
)
from pgbus.schema.contract import contract_of
from pgbus.schema.documents import read_documents, readable_json, to_documents, write_documents
from pgbus.schema.eventcatalog import to_eventcatalog, write_eventcatalog
from pgbus.schema.stubs import make_stubs
from pgbus.telemetry.figures import counted

_STYLES = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}

_module = click.argument("module", required=False, metavar="[MODULE[:BUS]]")
_against = click.option(
    "--against", metavar="FILE_OR_DIR", help="Compare with the output of `dump`, and not with the database."
)


@click.group(cls=PgbusGroup)
def schema() -> None:
    """Dump, check and compare the schemas of events and procedures, and write stubs."""


@schema.command()
@_module
@database_options
@click.option("--local", is_flag=True, help="Dump the declarations of MODULE, without the database.")
@click.option(
    "--out", "-o", metavar="FILE_OR_DIR", help="Write to this file, or one file for each API to this directory."
)
def dump(module: str | None, local: bool, out: str | None) -> None:
    """Print the newest stored schemas of all APIs as JSON.

    A path that ends in a slash, or is one, is a directory. MODULE is only used with --local.
    """
    documents = to_documents(_declared(_load(module)) if local else latest(_stored()))
    if out is None:
        click.echo(printable(readable_json(documents).decode()), nl=False)
        return
    write_documents(documents, out)
    click.echo(f"Schema for {counted(len(documents), 'API')} saved to {out}", err=True)


@schema.command()
@_module
@database_options
@_against
@json_option
def check(module: str | None, against: str | None, as_json: bool) -> None:
    """Refuse a change that would break a live listener or caller: for CI, before the code of MODULE is deployed.

    A listener in the code that could not read the events of other services is refused, too.

    Exit codes: 0 nothing would break, 1 something would break, 2 and more as for other commands.
    """
    bus = _load(module)
    known = _known(against)
    found = [
        *find_broken(_declared(bus), known, service=bus.config.service_name),
        *find_unreadable(bus.schema.code.declare(listeners=bus.listeners), known),
    ]
    for one in found:
        if as_json:
            print_json(one)
        else:
            console().print(_break_text(one), soft_wrap=True)
    if found:
        get_current_context().exit(FAILED)
    if not as_json:
        click.echo("nothing would break")


@schema.command()
@_module
@database_options
@_against
@json_option
def diff(module: str | None, against: str | None, as_json: bool) -> None:
    """Show how the code of MODULE differs from the stored schemas, and what each change breaks."""
    bus = _load(module)
    declared, known, service = _declared(bus), _known(against), bus.config.service_name
    broken = find_broken(declared, known, service=service)
    changes = find_changes(declared, known, service=service)
    for change in changes:
        breaks = [one for one in broken if (one.kind, one.name) == (change.kind, change.name)]
        if as_json:
            print_json({**_as_dict(change), "breaks": [str(one) for one in breaks]})
        else:
            _print_change(change, breaks)
    if not changes and not as_json:
        click.echo("no event and no procedure changed")


@schema.command()
@_module
@database_options
@click.option(
    "--from", "source", metavar="FILE_OR_DIR", help="Take the APIs of other services from the output of `dump`."
)
@click.option("--local", is_flag=True, help="Write only the APIs that the code of MODULE declares.")
@click.option("--out", "-o", metavar="FILE", help="Default: MODULE.pyi in the directory of the module; `-` is stdout.")
def stubs(module: str | None, source: str | None, local: bool, out: str | None) -> None:
    """Write a `.pyi` stub of MODULE, from which an editor knows every event and procedure on its bus.

    The APIs of other services are taken from the database.
    """
    if source and local:
        raise click.UsageError("--from adds APIs of other services, and --local leaves them out: use one of them")
    target = module or load_config().module
    bus = _load(module)
    others: Sequence[Declaration | Stored] = () if local else read_documents(source) if source else latest(_stored())
    name, _, attribute = target.partition(":")
    declared = _declared(bus)
    own = {one.name for one in declared if one.kind == "procedure"}
    taken = bus.client.api_registry.taken_names
    text = make_stubs([*others, *declared], bus_name=attribute or "bus", own=own, taken_names=taken)
    if out == "-":
        click.echo(text, nl=False)
        return
    path = Path(out) if out else Path(str(sys.modules[name].__file__)).with_suffix(".pyi")
    path.write_text(text, encoding="utf-8")
    click.echo(f"wrote {path}", err=True)


_of_service = click.option("--service", metavar="NAME", help="Only what this service publishes, hears and serves.")
_at = click.option(
    "--at",
    type=click.IntRange(1),
    metavar="VERSION",
    help="The contract at an earlier version: info.version of a document.",
)


@schema.command()
@database_options
@_of_service
@_at
@click.option("--out", "-o", metavar="FILE", help="Default: stdout.")
def asyncapi(service: str | None, at: int | None, out: str | None) -> None:
    """Print the events, listeners and procedures of all services as an AsyncAPI 3 document.

    It says what is deployed, by the database, and is the same each time until a service stores another schema.
    """
    stored = _stored()
    document = readable_json(to_asyncapi(contract_of(stored, service=service, version=at), listeners=in_use(stored)))
    if out is None:
        click.echo(printable(document.decode()), nl=False)
        return
    Path(out).write_bytes(document)
    click.echo(f"wrote {out}", err=True)


@schema.command()
@click.argument("directory", metavar="DIR")
@database_options
@_of_service
@_at
def eventcatalog(directory: str, service: str | None, at: int | None) -> None:
    """Write the events and procedures of all services as pages of an EventCatalog, in its directory DIR.

    Pages of an earlier run that are no longer true are removed; other files are left alone.
    """
    files = to_eventcatalog(contract_of(_stored(), service=service, version=at))
    write_eventcatalog(files, directory)
    click.echo(f"wrote {len(files)} files to {directory}", err=True)


# -------------------------------------------------------------------------------------------------------------- sources


def _load(module: str | None) -> pgbus.Bus:
    config = load_config(module=module)
    pass_on(module=module)
    return load_bus(config.module)


def _declared(bus: pgbus.Bus) -> list[Declaration]:
    return bus.schema.code.declare()


def _stored() -> list[Stored]:
    return with_admin(lambda admin: admin.schemas())


def _known(against: str | None) -> list[Stored]:
    """Return the schemas to compare with. A file has no listeners, so its events are used in their place."""
    if against is None:
        return _stored()
    read = [Stored(kind=one.kind, name=one.name, schema=one.schema) for one in read_documents(against)]
    return [*read, ANY_LISTENER]


# --------------------------------------------------------------------------------------------------------------- output


def _break_text(found: Break) -> Text:
    text = Text.assemble(("breaks", "bold red"), f" {found.whom}: {found.kind} ", (found.name, "bold"))
    for reason in found.reasons:
        text.append(f"\n    {reason}")
    return text


def _as_dict(change: Change) -> dict[str, object]:
    return {"kind": change.kind, "name": change.name, "change": change.change, "details": change.details}


def _print_change(change: Change, breaks: Sequence[Break]) -> None:
    sign, style = _STYLES[change.change]
    text = Text.assemble((f"{sign} {change.kind} ", style), (change.name, f"bold {style}"))
    for line in change.details:
        text.append(f"\n    {line}")
    for one in breaks:
        text.append(f"\n    breaks {one.whom}: {'; '.join(one.reasons)}", style="red")
    console().print(text, soft_wrap=True)
