"""`pgbus republish`: publish an event of the log again, with another payload."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import rich_click as click

from pgbus.cli.changing import change, change_options
from pgbus.cli.global_options import database_options
from pgbus.cli.options import json_option, read_json, with_admin
from pgbus.cli.output import console, print_json


@click.command()
@click.argument("event_id", metavar="ID", type=click.UUID)
@click.argument("payload", metavar="JSON", type=read_json)
@database_options
@change_options
@json_option
def republish(*, event_id: UUID, payload: object, as_json: bool, **given: Any) -> None:
    """Publish the event ID again with the payload JSON (`-` reads stdin), and print the new event's id."""
    with_admin(lambda admin: admin.check_republishable(event_id, payload))
    # Nobody is asked, as before `pgbus publish`: the event was named.
    wanted = {"event": str(event_id), "payload": payload}
    done = change("republish", wanted, what="event", as_json=as_json, **{**given, "yes": True})
    if done is None:
        return
    if as_json:
        print_json({"republished": event_id, "event_id": done.result["event_id"], "operation": done.id})
    else:
        console().print(str(done.result["event_id"]), soft_wrap=True)
