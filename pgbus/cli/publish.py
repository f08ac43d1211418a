"""`pgbus publish`: publish one event from the shell."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import msgspec
import rich_click as click
from click import get_current_context
from click.core import ParameterSource

from pgbus.cli.global_options import database_options, load_config
from pgbus.cli.loading import create_bus
from pgbus.cli.options import Seconds, json_option, read_future, read_json, read_pair
from pgbus.cli.output import event_fields, print_json
from pgbus.cloudevents import from_json, to_event
from pgbus.messages import EventMessage


@click.command()
@click.argument("topic", required=False)
@click.argument("payload", type=read_json, metavar="JSON", required=False)
@database_options
@click.option("--key", help="Ordered listeners handle events with the same key in order.")
@click.option("--header", "headers", type=read_pair, multiple=True, metavar="NAME=VALUE", help="A header; repeatable.")
@click.option("--delay", type=Seconds(min=0), metavar="SECONDS", help="Deliver after this many seconds.")
@click.option(
    "--deliver-at",
    type=read_future,
    metavar="INSTANT",
    help="Deliver at this time: 2025-01-31T12:00+01:00, or 2h from now.",
)
@click.option("--dedup-key", help="Publish only if no event was published under this key within `dedup_ttl`.")
@click.option(
    "--cloudevent",
    type=read_json,
    metavar="JSON",
    help="Publish this CloudEvent, in place of TOPIC and JSON (`-` reads stdin).",
)
@json_option
def publish(
    *,
    topic: str | None,
    payload: object,
    key: str | None,
    headers: tuple[tuple[str, str], ...],
    delay: float | None,
    deliver_at: datetime | None,
    dedup_key: str | None,
    cloudevent: object,
    as_json: bool,
) -> None:
    """Publish an event under TOPIC with the payload JSON (`-` reads stdin), and print its id."""
    has_payload = get_current_context().get_parameter_source("payload") is ParameterSource.COMMANDLINE
    if cloudevent is not None:
        if topic or key or headers:
            raise click.UsageError("a CloudEvent has its own topic, payload, key and headers")
        what = _of_cloudevent(cloudevent)
    elif topic and has_payload:
        what = {"event": payload, "topic": topic, "key": key, "headers": dict(headers) or None}
    else:
        raise click.UsageError("give TOPIC and JSON, or --cloudevent")
    config = load_config()

    async def publish_it() -> EventMessage:
        async with create_bus(config) as bus:
            return await bus.publish(**what, delay=delay, deliver_at=deliver_at, dedup_key=dedup_key)

    event = asyncio.run(publish_it())
    if as_json:
        print_json({name: value for name, value in event_fields(event).items() if value is not None})
    else:
        click.echo(event.event_id)


def _of_cloudevent(document: object) -> dict[str, Any]:
    event = to_event(from_json(msgspec.json.encode(document)))
    return {
        "event": event.payload,
        "topic": event.topic,
        "key": event.key,
        "headers": event.headers,
        "event_id": event.event_id,
    }
