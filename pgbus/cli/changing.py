"""Changes that people make with commands: previewed, confirmed, carried out with progress, and said."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import rich_click as click
from rich.text import Text

from pgbus.admin import Operation, Preview
from pgbus.cli.group import tell
from pgbus.cli.options import confirm, with_admin
from pgbus.cli.output import clip, console, number, print_json
from pgbus.database.statements.operations import Verb
from pgbus.telemetry.figures import counted

_Command = TypeVar("_Command", bound=Callable[..., Any])

reason_options = (
    click.option("--reason", metavar="TEXT", help="Why; kept with the operation."),
    click.option("--person", metavar="NAME", envvar="PGBUS_PERSON", help="Who you are, besides the database's user."),
)
confirm_options = (
    click.option("--dry-run", is_flag=True, help="Show what it would apply to, and change nothing."),
    click.option("--yes", is_flag=True, help="Do not ask; a script has to give it."),
    *reason_options,
)


def with_options(options: tuple[Callable[[Any], Any], ...]) -> Callable[[_Command], _Command]:
    """Add these options to a command."""

    def add(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def change(
    verb: Verb,
    filter_: Mapping[str, object],
    *,
    what: str,
    reason: str | None,
    person: str | None,
    dry_run: bool = False,
    yes: bool = True,
    as_json: bool = False,
) -> Operation | None:
    """Preview an operation, ask, and carry it out; None after a dry run. `what` says what is counted."""
    if dry_run or not yes:
        preview = with_admin(lambda admin: admin.operations.preview(verb, filter_))
        _show(preview, what=what, as_json=as_json)
        if dry_run:
            return None
        _confirm(verb, preview, what=what)
    return with_admin(lambda admin: admin.operations.run(verb, filter_, reason=reason, person=person, progress=_report))


def _show(preview: Preview, *, what: str, as_json: bool) -> None:
    if as_json:
        print_json({"matched": preview.matched, "sample": preview.sample})
        return
    console().print(f"matches {counted(preview.matched, what)}")
    for one in preview.sample:
        names = ("id", "listener_name", "position", "topic", "key", "error")
        line = "  ".join(f"{name}={one[name]}" for name in names if one.get(name) is not None)
        if line:
            console().print(Text(f"  {clip(line, 200)}", style="dim"), soft_wrap=True)


def _confirm(verb: Verb, preview: Preview, *, what: str) -> None:
    if not preview.matched:
        return
    confirm(f"{verb.replace('_', ' ')} {counted(preview.matched, what)}?")


def _report(operation: Operation) -> None:
    if operation.state == "running" and sys.stderr.isatty():
        tell(f"operation {operation.id}: {number(operation.touched)} of {number(operation.matched)}")
