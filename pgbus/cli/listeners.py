"""`pgbus listeners`: list, pause, resume, reset and remove listeners."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, cast

import rich_click as click
from rich.text import Text

from pgbus.admin import ListenerStatus
from pgbus.cli.global_options import database_options
from pgbus.cli.options import change_each, json_option, read_past, say_done, with_admin
from pgbus.cli.output import ago, console, number, print_json
from pgbus.cli.tables import Column, Listing


@click.group()
@database_options
def listeners() -> None:
    """List listeners; pause, resume, reset or remove them."""


@listeners.command("list")
@database_options
@json_option
def list_listeners(as_json: bool) -> None:
    """List the registered listeners and their subscriptions."""
    found = with_admin(lambda admin: admin.listeners.list())
    if as_json:
        for listener in found:
            print_json(listener)
        return
    rows = Listing(
        Column(heading="listener", elastic=True),
        Column(heading="state"),
        Column(heading="service", elastic=True, rank=2),
        Column(heading="ordered", rank=3),
        Column(heading="replays from", right=True, rank=1),
        Column(heading="seen", rank=4),
        Column(heading="topics", elastic=True),
    )
    for listener in found:
        rows.add(*_cells(listener))
    console().print(rows if found else "no listeners are registered")


def _cells(listener: ListenerStatus) -> tuple[Text, ...]:
    return (
        Text(listener.listener_name, style="bold"),
        Text(listener.state, style="green" if listener.state == "active" else "yellow"),
        Text(listener.service or "-"),
        Text("by key" if listener.ordered else "-"),
        Text("-" if listener.cursor is None else number(listener.cursor)),
        Text(f"{ago(listener.last_seen_at)} ago"),
        Text(", ".join(listener.patterns), style="dim"),
    )


@listeners.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@database_options
@json_option
def pause(names: tuple[str, ...], as_json: bool) -> None:
    """Stop deliveries to listeners, on every worker; their events are kept."""
    change_each(names, lambda admin, name: admin.listeners.pause(name), verb="paused", as_json=as_json)


@listeners.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@database_options
@json_option
def resume(names: tuple[str, ...], as_json: bool) -> None:
    """Deliver to paused listeners again."""
    change_each(names, lambda admin, name: admin.listeners.resume(name), verb="resumed", as_json=as_json)


def read_place(text: str) -> str | int | datetime:
    """A place in the log: `beginning`, `now`, a position, or an instant."""
    if text in ("beginning", "now"):
        return text
    return int(text) if text.isdecimal() else read_past(text)


@listeners.command()
@click.argument("name")
@database_options
@click.option(
    "--to",
    required=True,
    type=read_place,
    metavar="PLACE",
    help="beginning, now, a position, ISO 8601, or an age such as 2h, 7d.",
)
@json_option
def reset(name: str, to: str | int | datetime, as_json: bool) -> None:
    """Deliver the log to a listener again from a place on, or skip to now.

    Waiting deliveries of the listener are dropped; its events in flight and its dead letters stay.
    """
    place = cast("Literal['beginning', 'now'] | int | datetime", to)
    try:
        position = with_admin(lambda admin: admin.listeners.reset(name, to=place))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        say_done("reset", name, as_json=True, position=position)
    else:
        console().print(f"reset {name}: it gets the log from position {number(position)} on", soft_wrap=True)


@listeners.command()
@click.argument("name")
@database_options
@click.option("--force", is_flag=True, help="Even while a live worker runs it.")
@json_option
def remove(name: str, force: bool, as_json: bool) -> None:
    """Remove a listener with its deliveries and dead letters; its history stays."""
    with_admin(lambda admin: admin.listeners.remove(name, force=force))
    say_done("removed", name, as_json=as_json)
