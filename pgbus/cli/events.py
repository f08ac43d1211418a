"""`pgbus events`: show the log, with each listener's attempts at each event."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import rich_click as click
from rich.text import Text

from pgbus.admin import Condition, EventFilter, EventRecord
from pgbus.cli.global_options import database_options
from pgbus.cli.group import fail
from pgbus.cli.history import deliveries, follow_events, note_outbox
from pgbus.cli.options import (
    error_option,
    json_option,
    limit_option,
    period_options,
    read_condition,
    read_pattern,
    with_admin,
)
from pgbus.cli.output import clip, console, event_fields, instant, note_more, print_json
from pgbus.cli.printable import on_one_line
from pgbus.telemetry.figures import counted


@click.command()
@click.argument("topic", type=read_pattern, metavar="[TOPIC]", required=False)
@database_options
@click.option("--key", help="Events with this key.")
@click.option("--id", "event_id", type=click.UUID, help="The event with this id.")
@error_option
@period_options("Logged")
@click.option("--after", type=int, help="Positions greater than this.")
@click.option("--before", type=int, help="Positions less than this.")
@click.option(
    "--where",
    type=read_condition,
    multiple=True,
    metavar="PATH OP VALUE",
    help="Payload: 'customer.age>=18', 'items[*].sku=\"7\"', with = != < <= > >=. Repeatable; all must match.",
)
@click.option("--owed-to", metavar="LISTENER", help="Events that this listener has yet to handle.")
@limit_option(20)
@click.option("--oldest-first", is_flag=True, help="Show the oldest first.")
@click.option("--follow", is_flag=True, help="Print events as they enter the log, until Ctrl-C.")
@json_option
def events(
    *,
    topic: str | None,
    key: str | None,
    event_id: UUID | None,
    error: str | None,
    since: datetime | None,
    until: datetime | None,
    after: int | None,
    before: int | None,
    where: tuple[Condition, ...],
    owed_to: str | None,
    limit: int,
    oldest_first: bool,
    follow: bool,
    as_json: bool,
) -> None:
    """Show events of the log, the newest first, with each listener's attempts.

    TOPIC may be a pattern: 'orders.*' has one more word, 'orders.**' any number of them.
    """
    wanted = EventFilter(
        topic=topic,
        key=key,
        event_id=event_id,
        error=error,
        since=since,
        until=until,
        after=after,
        before=before,
        where=where,
        owed_to=owed_to,
    )
    show = _print_json if as_json else _print
    if follow:
        follow_events(wanted, show)
        return
    # One more than is shown tells whether there are more: counting them would read the whole log.
    records = with_admin(lambda admin: admin.find_events(wanted, limit=limit + 1, newest_first=not oldest_first))
    for record in records[:limit]:
        show(record)
    note_more(len(records) > limit, f"the {'oldest' if oldest_first else 'newest'} {counted(limit, 'event')}")
    if event_id and not records:
        fail(f"no event {event_id} in the log matches; a scheduled event enters the log when it is due")
    if not (records or as_json):
        console().print("no events")
        note_outbox()


def _print_json(record: EventRecord) -> None:
    print_json(
        {
            **event_fields(record.event),
            "logged_at": record.logged_at,
            "attempts": record.attempts,
            "owed": record.owed,
            "given_up": record.given_up,
        }
    )


def _print(record: EventRecord) -> None:
    event = record.event
    text = Text.assemble(
        (f"#{event.position}", "dim"),
        f"  {instant(record.logged_at)}  ",
        (event.topic, "bold cyan"),
        f"  {event.event_id}",
    )
    if event.key is not None:
        text.append(f"  key {on_one_line(event.key)}")
    text.append(f"\n    {clip(event.raw, 500)}")
    for listener_name, state, details in deliveries(record):
        text.append(f"\n    {listener_name}: ").append_text(state).append_text(details)
    console().print(text, soft_wrap=True)
