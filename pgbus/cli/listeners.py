"""`pgbus listeners`: list, pause, resume, reset, replay and remove listeners."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, cast

import rich_click as click
from rich.text import Text

from pgbus.admin import ListenerStatus
from pgbus.cli.changing import change, change_each, change_options
from pgbus.cli.global_options import database_options
from pgbus.cli.options import json_option, key_option, read_past, read_pattern, say_done, with_admin
from pgbus.cli.output import ago, console, number, print_json
from pgbus.cli.tables import Column, Listing
from pgbus.telemetry.figures import counted


@click.group()
@database_options
def listeners() -> None:
    """List listeners; pause, resume, reset, replay or remove them."""


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
@change_options
@json_option
def pause(names: tuple[str, ...], **given: Any) -> None:
    """Stop deliveries to listeners, on every worker; their events are kept."""
    change_each("pause", "listener", names, said="paused", **given)


@listeners.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@database_options
@change_options
@json_option
def resume(names: tuple[str, ...], **given: Any) -> None:
    """Deliver to paused listeners again."""
    change_each("resume", "listener", names, said="resumed", **given)


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
@change_options
@json_option
def reset(name: str, to: str | int | datetime, as_json: bool, **given: Any) -> None:
    """Deliver the log to a listener again from a place on, or skip to now.

    Waiting deliveries of the listener are dropped, and its dead letters from there on; its events in flight stay.
    """
    done = change("reset", {"listener": name, "to": _place(name, to)}, what="listener", as_json=as_json, **given)
    if done is None:
        return
    position = done.result["position"]
    if as_json:
        say_done("reset", name, as_json=True, position=position)
    else:
        console().print(f"reset {name}: it gets the log from position {number(position)} on", soft_wrap=True)


@listeners.command()
@click.argument("name")
@database_options
@click.option("--from", "start", required=True, type=read_place, metavar="PLACE", help="As in `reset --to`.")
@click.option("--to", "end", type=read_place, default="now", show_default=True, metavar="PLACE", help="Up to here.")
@click.option("--topic", type=read_pattern, metavar="PATTERN", help="Events under this topic or pattern.")
@key_option
@change_options
@json_option
def replay(
    name: str,
    start: str | int | datetime,
    end: str | int | datetime,
    topic: str | None,
    key: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Deliver a stretch of the log to a listener again, in addition to what waits for it."""
    wanted = {"listener": name, "from": _place(name, start), "to": _place(name, end), "topic": topic, "key": key}
    filter_ = {key: value for key, value in wanted.items() if value is not None}
    done = change("replay", filter_, what="event", as_json=as_json, **given)
    if done is None:
        return
    if as_json:
        say_done("replayed", name, as_json=True, events=done.touched, operation=done.id)
    else:
        console().print(f"replayed {counted(done.touched, 'event')} to {name} (operation {done.id})", soft_wrap=True)


@listeners.command()
@click.argument("name")
@database_options
@click.option("--force", is_flag=True, help="Even while a live worker runs it.")
@change_options
@json_option
def remove(name: str, force: bool, as_json: bool, **given: Any) -> None:
    """Remove a listener and what waits for it; its history stays, and the operation keeps its dead letters."""
    with_admin(lambda admin: admin.listeners.check_removable(name, force=force))
    done = change("remove", {"listener": name, "force": force}, what="listener", as_json=as_json, **given)
    if done is not None:
        say_done("removed", name, as_json=as_json)


def _place(name: str, place: str | int | datetime) -> str:
    """A place in the log in the words of a filter."""
    asked = cast("Literal['beginning', 'now'] | int | datetime", place)
    try:
        return with_admin(lambda admin: admin.listeners.place(name, asked))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
