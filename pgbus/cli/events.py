"""`pgbus events`: the history, event by event, with what each listener did."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import UUID

import rich_click as click
from rich.text import Text

from pgbus.admin import Admin, Attempt, Condition, EventFilter, EventRecord, Owed
from pgbus.cli.options import database_options, json_option, read_condition, read_instant, read_pattern, with_admin
from pgbus.cli.output import age, clip, console, event_fields, instant, print_json

_OUTCOME_STYLES = {"done": "green", "retry": "yellow", "dead": "red", "discarded": "red", "skipped": "dim"}


@click.command()
@click.argument("topic", type=read_pattern, metavar="[TOPIC]", required=False)
@database_options
@click.option("--key", help="Events with this key.")
@click.option("--id", "event_id", type=click.UUID, help="The event with this id.")
@click.option(
    "--since",
    type=read_instant,
    metavar="INSTANT",
    help="Logged then or later: 2025-01-31T12:00, or 2h ago.",
)
@click.option("--until", type=read_instant, metavar="INSTANT", help="Logged before then.")
@click.option("--after", type=int, help="Positions greater than this.")
@click.option("--before", type=int, help="Positions less than this.")
@click.option(
    "--where",
    type=read_condition,
    multiple=True,
    metavar="PATH OP VALUE",
    help="Payload: 'customer.age>=18', 'items[*].sku=\"7\"', with = != < <= > >=. May be given again: all must hold.",
)
@click.option("--owed-to", metavar="LISTENER", help="Events that this listener has yet to handle.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@click.option("--oldest-first", is_flag=True, help="From the oldest on, instead of from the newest back.")
@click.option("--follow", is_flag=True, help="Print events as they enter the log, until Ctrl-C.")
@json_option
def events(
    *,
    topic: str | None,
    key: str | None,
    event_id: UUID | None,
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
    """Show events of the log, the newest first, and what each listener did with them.

    TOPIC may be a pattern: 'orders.*' has one more word, 'orders.**' any number of them.
    """
    wanted = EventFilter(
        topic=topic,
        key=key,
        event_id=event_id,
        since=since,
        until=until,
        after=after,
        before=before,
        where=where,
        owed_to=owed_to,
    )
    if follow:
        _follow(wanted, as_json=as_json)
        return
    records = with_admin(lambda admin: admin.find_events(wanted, limit=limit, newest_first=not oldest_first))
    _print(records, as_json=as_json)
    if not (records or as_json):
        console().print("no events")


def _follow(wanted: EventFilter, *, as_json: bool) -> None:
    async def print_each(admin: Admin) -> None:
        async for record in admin.follow(wanted):
            _print([record], as_json=as_json)

    try:
        with_admin(print_each)
    except KeyboardInterrupt:
        return


def _print(records: Iterable[EventRecord], *, as_json: bool) -> None:
    out = console()
    for record in records:
        if as_json:
            print_json(_as_json(record))
        else:
            out.print(_text(record), soft_wrap=True)


def _as_json(record: EventRecord) -> dict[str, object]:
    return {
        **event_fields(record.event),
        "logged_at": record.logged_at,
        "attempts": record.attempts,
        "owed": record.owed,
    }


def _text(record: EventRecord) -> Text:
    event = record.event
    text = Text.assemble(
        (f"#{event.position}", "dim"),
        f"  {instant(record.logged_at)}  ",
        (event.topic, "bold cyan"),
        f"  {event.event_id}",
    )
    if event.key is not None:
        text.append(f"  key {event.key}")
    text.append(f"\n    {clip(event.raw, 500)}")
    for attempt in record.attempts:
        text.append_text(_attempt(attempt))
    for owed in record.owed:
        text.append_text(_owed(owed))
    return text


def _attempt(attempt: Attempt) -> Text:
    text = Text.assemble(
        f"\n    {attempt.listener_name}: ",
        (attempt.outcome, _OUTCOME_STYLES[attempt.outcome]),
        (
            f", attempt {attempt.attempt}, {instant(attempt.started_at)}, {age(attempt.duration)}, {attempt.worker}",
            "dim",
        ),
    )
    return text.append(f", {clip(attempt.error, 200)}", style="red") if attempt.error else text


def _owed(owed: Owed) -> Text:
    text = Text.assemble(f"\n    {owed.listener_name}: ", (owed.state, "yellow"))
    if owed.attempt > 1:
        text.append(f", attempt {owed.attempt}", style="dim")
    if owed.available_at and owed.available_at > datetime.now(UTC):
        text.append(f", not before {instant(owed.available_at)}", style="dim")
    if owed.worker:
        text.append(f", {owed.worker}", style="dim")
    return text.append(f", {clip(owed.last_error, 200)}", style="red") if owed.last_error else text
