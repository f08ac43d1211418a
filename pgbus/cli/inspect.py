"""`pgbus inspect`: the history by API, event and version, and the calls by API and procedure."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Literal, TypeAlias, TypeVar
from uuid import UUID

import msgspec
import rich_click as click
from click import get_current_context
from click.core import ParameterSource
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

import pgbus
from pgbus.admin import CallFilter, CallRecord, Condition, EventFilter, EventRecord, Names
from pgbus.cli.exits import FAILED
from pgbus.cli.global_options import database_options, load_config, pass_on
from pgbus.cli.history import deliveries, follow_events, note_outbox
from pgbus.cli.loading import load_bus
from pgbus.cli.options import error_option, limit_option, period_options, read_condition, with_admin
from pgbus.cli.output import (
    clip,
    console,
    encode_json,
    indented,
    instant,
    note_more,
    print_json,
    stored_json,
)
from pgbus.cli.printable import on_one_line
from pgbus.cli.remarks import Casting, Remark, Validation
from pgbus.telemetry.figures import counted, duration

_Record = TypeVar("_Record", EventRecord, CallRecord)
Format: TypeAlias = Literal["json", "pretty", "human"]

# The APIs of pgbus itself.
_INTERNAL = ("internal", "internal.*")
_ABOUT_EVENTS = ("native_id", "key", "version", "owed_to", "dead", "validate", "show_casting", "follow")
_LONGEST = 500  # characters of a value that are shown on a terminal
_STATE_STYLES = {"answered": "green", "waiting": "yellow", "running": "yellow"}


def read_version(text: str) -> Condition:
    """A condition on the version from OP NUMBER, or from the number alone."""
    try:
        condition = Condition.parse(f"version{text}" if text.strip()[:1] in "=!<>" else f"version={text}")
    except ValueError:
        condition = None
    if condition is None or type(condition.value) is not int:
        raise click.BadParameter(f"{text!r} is not a version: write 2, or '>=2', with = != < <= > >=")
    return condition


@click.command()
@database_options
@click.option(
    "--api",
    "-a",
    "apis",
    metavar="GLOB",
    multiple=True,
    help="Events of this API: 'auth', 'my.*'. Repeatable; matches any.",
)
@click.option(
    "--event", "-e", "words", metavar="GLOB", multiple=True, help="Events of this name in their API: 'user_*'."
)
@click.option("--id", "-i", "event_id", type=click.UUID, help="The event, or the call, with this id.")
@click.option("--native-id", "-n", type=int, metavar="POSITION", help="The event at this position of the log.")
@click.option("--version", "-v", type=read_version, multiple=True, metavar="[OP]N", help="API version: 2, '>=2'.")
@click.option(
    "--json-path",
    "-j",
    "where",
    type=read_condition,
    multiple=True,
    metavar="PATH OP VALUE",
    help="Argument: 'email=joe@example.com', 'address.city=London', 'age>=18'. Repeatable; all must match.",
)
@click.option("--key", help="Events with this key.")
@error_option
@period_options("Logged, or called,")
@click.option("--owed-to", metavar="LISTENER", help="Events that this listener has yet to handle.")
@click.option("--dead", is_flag=True, help="Events that are dead letters of a listener.")
@click.option("--calls", is_flag=True, help="Calls of procedures instead of events, until they are pruned.")
@click.option("--internal", "-I", is_flag=True, help="Also events of internal APIs.")
@click.option("--validate", "-d", is_flag=True, help="Check the arguments against the current schema.")
@click.option("--show-casting", "-C", is_flag=True, help="Show what each listener of the bus gets: type, hint, result.")
@click.option("--bus", "-b", "module", metavar="MODULE[:BUS]", help="The bus with the listeners and APIs.")
@limit_option(20)
@click.option("--follow", "-f", is_flag=True, help="Print events as they enter the log, until Ctrl-C.")
@click.option(
    "--format",
    "-F",
    "form",
    type=click.Choice(["json", "pretty", "human"]),
    help="One JSON object per line, indented JSON, or text; default: human on a terminal, else json.",
)
@click.option("--json", "form", flag_value="json", help="The same as --format json.")
def inspect(
    *,
    apis: tuple[str, ...],
    words: tuple[str, ...],
    event_id: UUID | None,
    native_id: int | None,
    version: tuple[Condition, ...],
    where: tuple[Condition, ...],
    key: str | None,
    error: str | None,
    since: datetime | None,
    until: datetime | None,
    owed_to: str | None,
    dead: bool,
    calls: bool,
    internal: bool,
    validate: bool,
    show_casting: bool,
    module: str | None,
    limit: int,
    follow: bool,
    form: Format | None,
) -> None:
    """Show the history of APIs, the newest first: events, or with --calls calls. All filters must match.

    Exit codes: 0 something was found, 1 nothing was found.
    """
    bus = _load_bus(module) if module or show_casting else None
    names = Names(apis=apis, words=words, hidden=() if internal else (*_INTERNAL, *_internal_apis(bus)))
    if calls:
        _refuse(*_ABOUT_EVENTS, reason="is about events, not about calls")
        asked = CallFilter(names=names, call_id=event_id, error=error, since=since, until=until, where=where)
        calls_found = with_admin(lambda admin: admin.find_calls(asked, limit=limit + 1))
        _show_all(calls_found, _printer(form, _call_fields, _call_text), "call", limit=limit)
        return
    wanted = EventFilter(
        names=names,
        event_id=event_id,
        after=None if native_id is None else native_id - 1,
        before=None if native_id is None else native_id + 1,
        version=version,
        where=where,
        key=key,
        error=error,
        since=since,
        until=until,
        owed_to=owed_to,
        dead=dead,
    )
    remarks: list[Remark] = []
    if validate:
        remarks.append(Validation(with_admin(lambda admin: admin.event_schemas())))
    if bus and show_casting:
        remarks.append(Casting(bus))
    show = _printer(form, partial(_event_fields, remarks=remarks), partial(_event_text, remarks=remarks))
    if follow:
        follow_events(wanted, show)
        return
    events_found = with_admin(lambda admin: admin.find_events(wanted, limit=limit + 1))
    _show_all(events_found, show, "event", limit=limit, note=note_outbox)


def _load_bus(module: str | None) -> pgbus.Bus:
    config = load_config(module=module)
    pass_on(module=module)
    bus = load_bus(config.module)
    if bus.client.start_hooks:
        click.echo("listeners that are declared when a worker starts are not shown", err=True)
    return bus


def _internal_apis(bus: pgbus.Bus | None) -> list[str]:
    return [api.meta.name for api in bus.client.api_registry if api.meta.internal] if bus else []


def _refuse(*parameters: str, reason: str) -> None:
    """Refuse options that cannot be combined with another one that was given."""
    context = get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in parameters and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[0]} {reason}")


def _show_all(
    found: list[_Record],
    show: Callable[[_Record], None],
    what: str,
    *,
    limit: int,
    note: Callable[[], None] = lambda: None,
) -> None:
    """Show the records; if there are none, say so, call `note`, and end the program with exit code 1."""
    for record in found[:limit]:
        show(record)
    note_more(len(found) > limit, f"the newest {counted(limit, what)}")
    if not found:
        click.echo(f"no {what}s", err=True)
        note()
        get_current_context().exit(FAILED)


def _printer(
    form: Format | None, fields: Callable[[_Record], dict[str, object]], text: Callable[[_Record], RenderableType]
) -> Callable[[_Record], None]:
    match form or ("human" if sys.stdout.isatty() else "json"):
        case "json":
            return lambda record: print_json(fields(record))
        case "pretty":
            return lambda record: click.echo(indented(encode_json(fields(record))))
        case _:
            return lambda record: console().print(text(record))


# ------------------------------------------------------------------------------------------------------------- events


def _event_fields(record: EventRecord, *, remarks: Sequence[Remark]) -> dict[str, object]:
    event = record.event
    return {
        "id": event.event_id,
        "native_id": event.native_id,
        "api_name": event.api_name,
        "event_name": event.event_name,
        "version": event.version,
        "kwargs": stored_json(event.raw),
        "key": event.key,
        "headers": stored_json(event.raw_headers or "{}"),
        "published_at": event.published_at,
        "logged_at": record.logged_at,
        "states": record.states,
        "attempts": record.attempts,
        "owed": record.owed,
        "given_up": record.given_up,
        **{remark.name: remark.value(record) for remark in remarks},
    }


def _event_text(record: EventRecord, *, remarks: Sequence[Remark]) -> RenderableType:
    event = record.event
    heading = Text.assemble(
        (event.topic, "bold cyan"), f"  {instant(record.logged_at)}", (f"  version {event.version}", "dim")
    )
    identity = Text.assemble(f"id {event.event_id}", (f"  native id {event.native_id}", "dim"))
    if event.key is not None:
        identity.append(f"  key {on_one_line(event.key)}")
    rows = _grid()
    for listener_name, state, details in deliveries(record):
        rows.add_row(listener_name, Text.assemble(state, details))
    for remark in remarks:
        for subject, line in remark.lines(record):
            rows.add_row(subject, line)
    return _entry(heading, identity, _values(event.raw), rows)


# -------------------------------------------------------------------------------------------------------------- calls


def _call_fields(record: CallRecord) -> dict[str, object]:
    return {
        "id": record.call_id,
        "api_name": record.api_name,
        "procedure_name": record.procedure_name,
        "kwargs": stored_json(record.arguments),
        "state": record.state,
        "caller": record.caller,
        "worker": record.worker,
        "requested_at": record.requested_at,
        "deadline": record.deadline,
        "started_at": record.started_at,
        "responded_at": record.responded_at,
        "duration": record.duration,
        "result": stored_json(record.result),
        "error_type": record.error_type,
        "error": record.error,
        "traceback": record.traceback,
    }


def _call_text(record: CallRecord) -> RenderableType:
    heading = Text.assemble(
        (on_one_line(record.procedure), "bold cyan"),
        f"  {instant(record.requested_at)}  ",
        (record.state, _STATE_STYLES.get(record.state, "red")),
    )
    people = Text(f"called by {on_one_line(record.caller)}", style="dim")
    if record.worker:
        people.append(f", served by {record.worker}")
    if record.duration is not None:
        people.append(f" in {duration(record.duration)}")
    outcome = Text()
    if record.result is not None:
        outcome = Text.assemble("result ", (clip(record.result, _LONGEST), "green"))
    elif record.error is not None:
        outcome = Text(clip(": ".join(filter(None, (record.error_type, record.error))), _LONGEST), style="red")
    return _entry(heading, Text(f"id {record.call_id}"), people, _values(record.arguments), outcome)


# --------------------------------------------------------------------------------------------------------------- both


def _entry(heading: Text, *below: Text | Table) -> RenderableType:
    """Print a heading and indented rows below it; empty rows are left out."""
    shown = [one for one in below if (one.plain if isinstance(one, Text) else one.row_count)]
    return Group(heading, Padding(Group(*shown), (0, 0, 0, 4), expand=False))


def _values(raw: str) -> Text | Table:
    """Return a row for each argument, or one line for a payload that is not a JSON object or nests too deeply."""
    try:
        values = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError):
        return Text(clip(raw, _LONGEST))
    rows = _grid()
    for name, value in values.items():
        rows.add_row(Text(on_one_line(name), style="dim"), Text(clip(bytes(value).decode(), _LONGEST)))
    return rows


def _grid() -> Table:
    """Return a table of two columns, of which the second wraps."""
    rows = Table.grid(padding=(0, 2, 0, 0))
    rows.add_column(no_wrap=True)
    rows.add_column(overflow="fold")
    return rows
