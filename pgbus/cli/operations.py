"""`pgbus operations`: list and show what people have changed; continue or cancel what is not finished."""

from __future__ import annotations

import rich_click as click
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pgbus.admin import Operation, OperationItem, OperationStep
from pgbus.cli.changing import why_options
from pgbus.cli.global_options import database_options
from pgbus.cli.group import fail
from pgbus.cli.options import Count, json_option, say_done, with_admin
from pgbus.cli.output import clip, console, instant, number, print_json
from pgbus.cli.printable import on_one_line
from pgbus.cli.tables import Column, Listing

_STYLES = {"done": "green", "running": "cyan", "cancelled": "yellow"}


@click.group()
@database_options
def operations() -> None:
    """List and show the changes that people have made; continue or cancel one."""


@operations.command("list")
@database_options
@click.option("--limit", type=Count(min=1), default=50, show_default=True, help="Show at most N.")
@json_option
def list_operations(limit: int, as_json: bool) -> None:
    """List operations, the newest first: who changed what, when, and why."""
    found = with_admin(lambda admin: admin.operations.list(limit=limit))
    if as_json:
        for one in found:
            print_json(one)
        return
    rows = Listing(
        Column(heading="id", right=True),
        Column(heading="at"),
        Column(heading="who", elastic=True, least=12),
        Column(heading="verb"),
        Column(heading="of", elastic=True, least=12),
        Column(heading="touched", right=True),
        Column(heading="state", rank=2),
        Column(heading="reason", elastic=True, rank=1, least=12),
    )
    for one in found:
        rows.add(
            str(one.id),
            instant(one.requested_at),
            Text(_who(one)),
            Text(one.verb, style="bold"),
            Text(clip(_filter(one), 100)),
            f"{number(one.touched)} of {number(one.matched)}",
            Text(one.state, style=_STYLES[one.state]),
            Text(clip(one.reason or "", 100)),
        )
    console().print(rows if found else "no operations yet")


@operations.command("show")
@click.argument("operation_id", metavar="ID", type=int)
@database_options
@click.option("--limit", type=Count(min=1), default=50, show_default=True, help="Show at most N of its events.")
@json_option
def show_operation(operation_id: int, limit: int, as_json: bool) -> None:
    """Show an operation, and the events that it has touched."""
    operation = with_admin(lambda admin: admin.operations.show(operation_id))
    items = with_admin(lambda admin: admin.operations.items(operation_id, limit=limit))
    if as_json:
        print_json({"operation": operation, "items": items})
    else:
        console().print(_detail(operation, items), soft_wrap=True)


@operations.command("cancel")
@click.argument("operation_id", metavar="ID", type=int)
@database_options
@why_options
@json_option
def cancel_operation(*, operation_id: int, reason: str | None, person: str | None, as_json: bool) -> None:
    """Stop a running operation after its batch; what it has done stays."""
    if not with_admin(lambda admin: admin.operations.cancel(operation_id, reason=reason, person=person)):
        fail(f"operation {operation_id} has ended already; see `pgbus operations show {operation_id}`")
    say_done("cancelled", f"operation {operation_id}", as_json=as_json)


@operations.command("continue")
@click.argument("operation_id", metavar="ID", type=int)
@database_options
@why_options
@json_option
def continue_operation(*, operation_id: int, reason: str | None, person: str | None, as_json: bool) -> None:
    """Carry out the rest of an operation that was broken off."""
    done = with_admin(lambda admin: admin.operations.resume(operation_id, reason=reason, person=person))
    if as_json:
        print_json(done)
        return
    console().print(f"operation {operation_id} is {done.state}: {number(done.touched)} of {number(done.matched)}")


def _who(one: Operation | OperationStep) -> str:
    return f"{one.person} ({one.requested_by})" if one.person else one.requested_by


def _step(step: OperationStep) -> str:
    why = f": {on_one_line(step.reason)}" if step.reason else ""
    return f"{instant(step.requested_at)} by {_who(step)}{why}"


def _filter(operation: Operation) -> str:
    given = {name: value for name, value in operation.filter.items() if value is not False}
    return on_one_line(" ".join(f"{name}={value}" for name, value in given.items())) or "everything"


def _detail(operation: Operation, items: list[OperationItem]) -> Group:
    facts = Table.grid(padding=(0, 2))
    ended = "" if operation.finished_at is None else f", ended {instant(operation.finished_at)}"
    for name, value in (
        ("operation", f"{operation.id}: {operation.verb}"),
        ("of", _filter(operation)),
        ("who", _who(operation)),
        ("why", on_one_line(operation.reason or "-")),
        ("when", f"{instant(operation.requested_at)}{ended}"),
        *(("continued" if step.step == "continue" else "cancelled", _step(step)) for step in operation.steps),
        ("state", f"{operation.state}: touched {number(operation.touched)} of {number(operation.matched)}"),
        ("result", on_one_line(" ".join(f"{key}={value}" for key, value in operation.result.items()) or "-")),
    ):
        facts.add_row(Text(name, style="bold"), Text(value))
    rows = Listing(
        Column(heading="position", right=True),
        Column(heading="listener", elastic=True),
        Column(heading="topic", elastic=True, rank=1),
        Column(heading="attempts", right=True, rank=2),
        Column(heading="error", elastic=True),
    )
    for item in items:
        rows.add(
            number(item.position),
            Text(item.listener_name),
            Text(item.topic or "-"),
            str(item.attempts),
            Text(clip(item.fingerprint or item.error or "", 120), style="red"),
        )
    return Group(facts, Text(), rows) if items else Group(facts)
