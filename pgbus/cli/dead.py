"""`pgbus dead`: list, summarize, show, retry and discard dead letters, and decide about what may become one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import rich_click as click
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pgbus.admin import Admin, DeadFilter, DeadGroup, DeadLetter, Operation
from pgbus.cli.changing import change, change_options
from pgbus.cli.global_options import database_options
from pgbus.cli.group import fail
from pgbus.cli.options import (
    error_option,
    json_option,
    key_option,
    limit_option,
    period_options,
    read_pattern,
    with_admin,
)
from pgbus.cli.output import (
    LONGEST_ERROR,
    ago,
    clip,
    console,
    event_fields,
    flagged,
    indented,
    instant,
    note_cut,
    number,
    print_json,
)
from pgbus.cli.printable import on_one_line
from pgbus.cli.tables import Column, Listing
from pgbus.database.statements.operations import Verb
from pgbus.telemetry.figures import counted

_Command = TypeVar("_Command", bound=Callable[..., Any])
_SELECTING = "--listener, --topic, --key, --error, --since or --until"


@click.group()
@database_options
def dead() -> None:
    """List, group, show, retry or discard dead letters: events that a listener gave up on."""


def _filter_options(command: _Command) -> _Command:
    return _listener_option("Dead letters")(_event_options("Dead")(command))


_all_option = click.option("--all", "everything", is_flag=True, help="All of them.")


def _chosen_options(command: _Command) -> _Command:
    ids = click.argument("ids", metavar="[ID]...", type=int, nargs=-1)
    return ids(database_options(_filter_options(_all_option(command))))


def _waiting_options(command: _Command) -> _Command:
    return _listener_option("Events")(_event_options("Logged")(_all_option(command)))


def _listener_option(what: str) -> Callable[[_Command], _Command]:
    return click.option("--listener", "listener_name", metavar="NAME", help=f"{what} of this listener.")


def _event_options(was: str) -> Callable[[_Command], _Command]:
    topic = click.option("--topic", type=read_pattern, metavar="PATTERN", help="Events under this topic or pattern.")
    return lambda command: topic(key_option(error_option(period_options(was)(command))))


@dead.command("list")
@database_options
@_filter_options
@limit_option(50)
@json_option
def list_dead(*, limit: int, as_json: bool, **filters: Any) -> None:
    """List dead letters, the newest first."""
    wanted = DeadFilter(**filters)

    async def look(admin: Admin) -> tuple[list[DeadLetter], int]:
        found = await admin.dead_letters.find(wanted, limit=limit)
        return found, await admin.dead_letters.count(wanted) if len(found) == limit else len(found)

    letters, total = with_admin(look)
    if as_json:
        for letter in letters:
            print_json(_as_json(letter))
    else:
        console().print(_overview(letters) if letters else "no dead letters")
    note_cut(len(letters), total, "dead letters")


@dead.command("summary")
@database_options
@_filter_options
@json_option
def summarize_dead(*, as_json: bool, **filters: Any) -> None:
    """Group dead letters by their listener and fingerprint, the largest group first.

    A fingerprint is an exception's type and the application's function that raised it. `--error` of the other commands
    takes it.
    """
    groups = with_admin(lambda admin: admin.dead_letters.summarize(DeadFilter(**filters)))
    if as_json:
        for group in groups:
            print_json(group)
    else:
        console().print(_summary(groups) if groups else "no dead letters")


@dead.command("show")
@click.argument("letter_id", metavar="ID", type=int)
@database_options
@json_option
def show_dead(*, letter_id: int, as_json: bool) -> None:
    """Show one dead letter: its event, its error and the traceback."""
    letters = with_admin(lambda admin: admin.dead_letters.find(DeadFilter(ids=(letter_id,))))
    if not letters:
        fail(f"there is no dead letter {letter_id}; see `pgbus dead list`")
    if as_json:
        print_json(_as_json(letters[0]))
    else:
        console().print(_detail(letters[0]), soft_wrap=True)


@dead.command("retry")
@_chosen_options
@change_options
@json_option
def retry_dead(**given: Any) -> None:
    """Deliver dead letters to their listeners again, at once: those with the IDs, those that match, or --all."""
    _change("retry", said="retried", **given)


@dead.command("discard")
@_chosen_options
@change_options
@json_option
def discard_dead(**given: Any) -> None:
    """Delete dead letters: those with the IDs, those that match, or --all. The history and the operation keep them."""
    _change("discard", said="discarded", **given)


@dead.command("retry-now")
@database_options
@_waiting_options
@change_options
@json_option
def retry_waiting_now(**given: Any) -> None:
    """Try events at once that failed and wait for their next attempt."""
    _change_waiting("retry_now", said="due now", **given)


@dead.command("give-up")
@database_options
@_waiting_options
@change_options
@json_option
def give_up_waiting(**given: Any) -> None:
    """Make dead letters of events that failed and wait for their next attempt."""
    _change_waiting("give_up", said="given up", **given)


def _change_waiting(
    verb: Verb,
    *,
    said: str,
    everything: bool,
    as_json: bool,
    dry_run: bool,
    yes: bool,
    reason: str | None,
    person: str | None,
    **filters: Any,
) -> None:
    wanted = DeadFilter(**filters)
    if not (everything or wanted.as_filter()):
        raise click.UsageError(f"select events with {_SELECTING}, or give --all")
    done = _carry_out(
        verb, wanted, what="waiting event", reason=reason, person=person, dry_run=dry_run, yes=yes, as_json=as_json
    )
    if done is None:
        return
    if as_json:
        print_json({"touched": done.touched, "operation": done.id})
    else:
        console().print(f"{said}: {counted(done.touched, 'event')} (operation {done.id})")


def _change(
    verb: Verb,
    *,
    said: str,
    ids: tuple[int, ...],
    everything: bool,
    as_json: bool,
    dry_run: bool,
    yes: bool,
    reason: str | None,
    person: str | None,
    **filters: Any,
) -> None:
    wanted = DeadFilter(ids=ids or None, **filters)
    if ids and everything:
        raise click.UsageError("give the ids of dead letters, or --all, and not both")
    if not (everything or wanted.as_filter()):
        raise click.UsageError(f"give the ids of dead letters, or select some with {_SELECTING}, or give --all")
    done = _carry_out(
        verb, wanted, what="dead letter", reason=reason, person=person,
        dry_run=dry_run, yes=yes or bool(ids), as_json=as_json,
    )  # fmt: skip
    if done is None:
        return
    items = with_admin(lambda admin: admin.operations.items(done.id))
    taken = [item.letter_id for item in items if item.letter_id is not None]
    if as_json:
        print_json({said: taken, "operation": done.id})
    else:
        console().print(f"{said} {counted(done.touched, 'dead letter')} (operation {done.id})")
    if missing := sorted(set(ids) - set(taken)):
        fail(f"no such dead letter: {', '.join(map(str, missing))}")


def _carry_out(verb: Verb, wanted: DeadFilter, *, what: str, **how: Any) -> Operation | None:
    with_admin(lambda admin: admin.dead_letters.find(wanted, limit=1))  # names a listener that is not there
    return change(verb, wanted.as_filter(), what=what, **how)


def _as_json(letter: DeadLetter) -> dict[str, object]:
    return {
        "id": letter.id,
        "listener_name": letter.listener_name,
        "attempts": letter.attempts,
        "error": letter.error,
        "fingerprint": letter.fingerprint,
        "traceback": letter.traceback,
        "worker": letter.worker,
        "dead_at": letter.dead_at,
        "blocked_key": letter.blocked_key,
        "blocked": letter.blocked,
        "event": event_fields(letter.event),
    }


def _overview(letters: list[DeadLetter]) -> Listing:
    rows = Listing(
        Column(heading="id", right=True),
        Column(heading="listener", elastic=True),
        Column(heading="topic", elastic=True, rank=1),
        Column(heading="key", elastic=True, rank=2),
        Column(heading="attempts", right=True, rank=3),
        Column(heading="dead at"),
        Column(heading="error", elastic=True),
    )
    for letter in letters:
        rows.add(
            str(letter.id),
            Text(letter.listener_name, style="bold"),
            Text(letter.event.topic, style="cyan"),
            on_one_line(letter.event.key or "-"),
            str(letter.attempts),
            instant(letter.dead_at),
            Text(clip(letter.error, LONGEST_ERROR), style="red"),
        )
    return rows


def _summary(groups: list[DeadGroup]) -> Listing:
    rows = Listing(
        Column(heading="dead", right=True),
        Column(heading="listener", elastic=True),
        Column(heading="error", elastic=True),
        Column(heading="last hour", right=True, rank=1),
        Column(heading="first", right=True, rank=1),
        Column(heading="last", right=True),
        Column(heading="keys blocked", right=True, rank=2),
        Column(heading="see", rank=3),
    )
    for group in groups:
        rows.add(
            number(group.letters),
            Text(group.listener_name, style="bold"),
            name_failure(group),
            number(group.trend[-1]),
            f"{ago(group.first_at)} ago",
            f"{ago(group.last_at)} ago",
            flagged(group.blocked_keys, "red"),
            Text(f"pgbus dead show {group.sample}", style="dim"),
        )
    return rows


def name_failure(group: DeadGroup) -> Text:
    """The fingerprint that the letters of a group share, as `--error` takes it, and the error of the newest."""
    example = "" if group.example == group.error else f"  {on_one_line(group.example)}"
    return Text.assemble((on_one_line(group.error), "red"), (example, "dim"))


def _detail(letter: DeadLetter) -> Group:
    event = letter.event
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("dead letter", str(letter.id)),
        ("listener", letter.listener_name),
        ("attempts", f"{letter.attempts}, the last at {instant(letter.dead_at)} by {letter.worker}"),
        ("topic", event.topic),
        ("event", f"{event.event_id} at position {event.position}, published {instant(event.published_at)}"),
        ("key", on_one_line(event.key or "-")),
        ("headers", on_one_line(event.raw_headers or "-")),
        ("blocks", _blocks(letter)),
    ):
        facts.add_row(Text(name, style="bold"), Text(value))
    payload = Text(indented(event.raw))
    return Group(facts, Text(), payload, Text(), Text(letter.traceback or letter.error, style="red"))


def _blocks(letter: DeadLetter) -> str:
    if letter.blocked_key is None:
        return "-"
    waiting = counted(letter.blocked, "event")
    return f"key {on_one_line(letter.blocked_key)} until it is retried or discarded; {waiting} of it wait"
