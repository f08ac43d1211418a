"""Changes that people make with commands: previewed, confirmed, carried out with progress, and said."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import reduce
from typing import Any, Literal, TypeVar

import rich_click as click
from rich.text import Text

from pgbus.admin import Admin, Operation, Preview
from pgbus.cli.group import tell
from pgbus.cli.options import confirm, say_done, with_admin
from pgbus.cli.output import LONGEST_ERROR, clip, console, encode_json, instant, number, print_json
from pgbus.cli.tables import Column, Listing
from pgbus.database.statements.operations import Filter, Verb
from pgbus.telemetry.figures import counted

_Command = TypeVar("_Command", bound=Callable[..., Any])

# What a preview has of each row, as far as its verb has it. Ids and places are whole, the rest gives way.
_SAMPLED = {
    "id": Column(heading="id", right=True),
    "listener": Column(heading="listener", elastic=True),
    "listener_name": Column(heading="listener", elastic=True),
    "event": Column(heading="event"),
    "schedule": Column(heading="schedule", elastic=True),
    "from": Column(heading="from", right=True),
    "to": Column(heading="to", right=True),
    "position": Column(heading="position", right=True),
    "topic": Column(heading="topic", elastic=True, rank=1),
    "key": Column(heading="key", elastic=True, rank=2),
    "attempts": Column(heading="attempts", right=True, rank=3),
    "at": Column(heading="at", rank=4),
    "error": Column(heading="error", elastic=True),
    "payload": Column(heading="payload", elastic=True),
}


def change_options(command: _Command) -> _Command:
    """The options of every command that makes an operation: `--dry-run`, `--yes`, `--reason` and `--person`."""
    options = (
        click.option("--dry-run", is_flag=True, help="Show what it would apply to, and change nothing."),
        click.option("--yes", is_flag=True, help="Do not ask; a script has to give it where a person is asked."),
        why_options,
    )
    return reduce(lambda given, option: option(given), reversed(options), command)


def why_options(command: _Command) -> _Command:
    """The options `--reason` and `--person` alone, of the commands that change an operation."""
    options = (
        click.option("--reason", metavar="TEXT", help="Why; kept with the operation."),
        click.option(
            "--person", metavar="NAME", envvar="PGBUS_PERSON", help="Who you are, besides the database's user."
        ),
    )
    return reduce(lambda given, option: option(given), reversed(options), command)


def change(
    verb: Verb,
    filter_: Filter,
    *,
    what: str,
    reason: str | None,
    person: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> Operation | None:
    """Preview an operation, ask, and carry it out; None after a dry run. `what` says what is counted."""
    if dry_run or not yes:
        preview = with_admin(lambda admin: admin.operations.preview(verb, filter_))
        _show(preview, what=what, as_json=as_json)
        if dry_run:
            return None
        _confirm(verb, preview, what=what)
    return with_admin(lambda admin: admin.operations.run(verb, filter_, reason=reason, person=person, progress=_report))


def change_each(
    verb: Verb,
    kind: Literal["listener", "schedule"],
    names: Sequence[str],
    *,
    said: str,
    reason: str | None,
    person: str | None,
    dry_run: bool,
    yes: bool,  # noqa: ARG001 - nobody is asked: what is changed was named, and can be changed back
    as_json: bool,
) -> None:
    """Carry out an operation on each of these, and print a line after each; on none if one is not there."""

    async def change_named(admin: Admin) -> None:
        verbs = admin.listeners if kind == "listener" else admin.schedules
        for name in names:
            await verbs.check(name)
        if dry_run:
            _show(Preview(len(names), [{kind: name} for name in names]), what=kind, as_json=as_json)
            return
        for name in names:
            await admin.operations.run(verb, {kind: name}, reason=reason, person=person)
            say_done(said, name, as_json=as_json)

    with_admin(change_named)


def _show(preview: Preview, *, what: str, as_json: bool) -> None:
    if as_json:
        print_json({"matched": preview.matched, "sample": preview.sample})
        return
    shown = len(preview.sample)
    some = f"; {number(shown)} of them:" if 0 < shown < preview.matched else ""
    console().print(f"matches {counted(preview.matched, what)}{some}")
    names = [name for name in _SAMPLED if any(row.get(name) is not None for row in preview.sample)]
    if names:
        rows = Listing(*(_SAMPLED[name] for name in names))
        for row in preview.sample:
            rows.add(*(_cell(name, row.get(name)) for name in names))
        console().print(rows)


def _cell(name: str, value: object) -> Text:
    if value is None:
        return Text("-", style="dim")
    if name == "at":
        return Text(instant(datetime.fromisoformat(str(value))))
    return Text(clip(value if isinstance(value, str) else encode_json(value), LONGEST_ERROR))


def _confirm(verb: Verb, preview: Preview, *, what: str) -> None:
    if not preview.matched:
        return
    confirm(f"{verb.replace('_', ' ')} {counted(preview.matched, what)}?")


def _report(operation: Operation) -> None:
    if operation.state == "running" and sys.stderr.isatty():
        tell(f"operation {operation.id}: {number(operation.touched)} of {number(operation.matched)}")
