"""Code of the commands that show the history: each listener's attempts at an event, and new events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from rich.text import Text

from pgbus.admin import Admin, Attempt, EventFilter, EventRecord, GivenUp, Owed
from pgbus.cli.options import with_admin
from pgbus.cli.output import clip, instant
from pgbus.cli.streams import say
from pgbus.telemetry.figures import counted, duration

_OUTCOME_STYLES = {"done": "green", "retry": "yellow", "dead": "red", "discarded": "red", "skipped": "dim"}


def follow_events(wanted: EventFilter, show: Callable[[EventRecord], None]) -> None:
    """Show events as they enter the log, until Ctrl-C."""

    async def show_each(admin: Admin) -> None:
        async for record in admin.follow(wanted):
            show(record)

    try:
        with_admin(show_each)
    except KeyboardInterrupt:
        return


def note_outbox() -> None:
    """Say on stderr that events wait in the outbox, to somebody who found none in the log."""
    if waiting := with_admin(lambda admin: admin.status()).outbox_waiting:
        verb = "waits" if waiting == 1 else "wait"
        say(f"{counted(waiting, 'event')} {verb} in the outbox to enter the log; `pgbus status` shows what for")


class Delivery(NamedTuple):
    """An attempt, a delivery or a dead letter of an event at a listener; `details` begin with a comma."""

    listener_name: str
    state: Text
    details: Text


def deliveries(record: EventRecord) -> Iterator[Delivery]:
    """Return every attempt at an event, every listener that it is owed to, and every dead letter of it."""
    yield from map(_attempt, record.attempts)
    yield from map(_owed, record.owed)
    yield from map(_given_up, record.given_up)


def _attempt(attempt: Attempt) -> Delivery:
    details = Text(
        f", attempt {attempt.attempt}, {instant(attempt.started_at)}, {duration(attempt.duration)}, {attempt.worker}",
        style="dim",
    )
    state = Text(attempt.outcome, style=_OUTCOME_STYLES[attempt.outcome])
    return Delivery(attempt.listener_name, state, _with_error(details, attempt.error))


def _owed(owed: Owed) -> Delivery:
    details = Text()
    if owed.attempt > 1:
        details.append(f", attempt {owed.attempt}", style="dim")
    if owed.available_at and owed.available_at > datetime.now(UTC):
        details.append(f", not before {instant(owed.available_at)}", style="dim")
    if owed.worker:
        details.append(f", {owed.worker}", style="dim")
    return Delivery(owed.listener_name, Text(owed.state, style="yellow"), _with_error(details, owed.last_error))


def _given_up(given_up: GivenUp) -> Delivery:
    details = Text(f", `pgbus dead show {given_up.dead_letter}`", style="dim")
    return Delivery(given_up.listener_name, Text("given up", style="red"), details)


def _with_error(details: Text, error: str | None) -> Text:
    return Text.assemble(details, (f", {clip(error, 200)}", "red")) if error else details
