"""`pgbus dead`: list, show, retry and discard dead letters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar

import rich_click as click
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pgbus.admin import Admin, DeadFilter, DeadLetter
from pgbus.cli.global_options import database_options
from pgbus.cli.group import fail
from pgbus.cli.options import Count, json_option, read_past, read_pattern, with_admin
from pgbus.cli.output import clip, console, event_fields, indented, instant, number, print_json, table
from pgbus.cli.printable import on_one_line

_Command = TypeVar("_Command", bound=Callable[..., Any])


@click.group()
@database_options
def dead() -> None:
    """List, show, retry or discard dead letters: events that a listener gave up on."""


def _filter_options(command: _Command) -> _Command:
    for option in (
        click.option(
            "--since",
            type=read_past,
            metavar="INSTANT",
            help="Dead since this time or later: 2025-01-31T12:00, or 2h.",
        ),
        click.option("--topic", type=read_pattern, metavar="PATTERN", help="Events under this topic or pattern."),
        click.option("--listener", "listener_name", metavar="NAME", help="Dead letters of this listener."),
    ):
        command = option(command)
    return command


@dead.command("list")
@database_options
@_filter_options
@click.option("--limit", type=Count(min=1), default=50, show_default=True, help="Show at most N.")
@json_option
def list_dead(
    *, listener_name: str | None, topic: str | None, since: datetime | None, limit: int, as_json: bool
) -> None:
    """List dead letters, the newest first."""
    wanted = DeadFilter(listener_name=listener_name, topic=topic, since=since)
    letters = with_admin(lambda admin: admin.dead_letters.find(wanted, limit=limit))
    if as_json:
        for letter in letters:
            print_json(_as_json(letter))
    else:
        console().print(_overview(letters) if letters else "no dead letters")


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
@click.argument("ids", metavar="[ID]...", type=int, nargs=-1)
@database_options
@_filter_options
@click.option("--all", "everything", is_flag=True, help="All of them, or all that the other options leave.")
@json_option
def retry_dead(**given: Any) -> None:
    """Deliver dead letters to their listeners again, at once: those with the IDs, or --all that match."""
    _change(lambda admin, wanted: admin.dead_letters.retry(wanted), verb="retried", **given)


@dead.command("discard")
@click.argument("ids", metavar="[ID]...", type=int, nargs=-1)
@database_options
@_filter_options
@click.option("--all", "everything", is_flag=True, help="All of them, or all that the other options leave.")
@json_option
def discard_dead(**given: Any) -> None:
    """Delete dead letters: those with the IDs, or --all that match. The history keeps them."""
    _change(lambda admin, wanted: admin.dead_letters.discard(wanted), verb="discarded", **given)


def _change(
    method: Callable[[Admin, DeadFilter], Awaitable[list[int]]],
    *,
    verb: str,
    ids: tuple[int, ...],
    listener_name: str | None,
    topic: str | None,
    since: datetime | None,
    everything: bool,
    as_json: bool,
) -> None:
    if bool(ids) == everything:
        raise click.UsageError(
            "give the ids of dead letters, or --all (with --listener, --topic or --since to select some)"
        )
    wanted = DeadFilter(ids=ids or None, listener_name=listener_name, topic=topic, since=since)
    done = with_admin(lambda admin: method(admin, wanted))
    if as_json:
        print_json({verb: done})
    else:
        console().print(f"{verb} {len(done)} dead letter{'' if len(done) == 1 else 's'}")
    if missing := sorted(set(ids) - set(done)):
        fail(f"no such dead letter: {', '.join(map(str, missing))}")


def _as_json(letter: DeadLetter) -> dict[str, object]:
    return {
        "id": letter.id,
        "listener_name": letter.listener_name,
        "attempts": letter.attempts,
        "error": letter.error,
        "traceback": letter.traceback,
        "worker": letter.worker,
        "dead_at": letter.dead_at,
        "blocked_key": letter.blocked_key,
        "blocked": letter.blocked,
        "event": event_fields(letter.event),
    }


def _overview(letters: list[DeadLetter]) -> Table:
    rows = table(
        "id", "listener", "topic", "key", "attempts", "dead at", "error",
        right=("id", "attempts"), wide=("listener", "topic", "key", "error"),
    )  # fmt: skip
    for letter in letters:
        rows.add_row(
            str(letter.id),
            Text(letter.listener_name, style="bold"),
            Text(letter.event.topic, style="cyan"),
            clip(letter.event.key or "", 40),
            str(letter.attempts),
            instant(letter.dead_at),
            Text(clip(letter.error, 200), style="red"),
        )
    return rows


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
    waiting = f"{number(letter.blocked)} event{'' if letter.blocked == 1 else 's'}"
    return f"key {on_one_line(letter.blocked_key)} until it is retried or discarded; {waiting} of it wait"
