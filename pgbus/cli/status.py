"""`pgbus status`: a summary of outbox, log, listeners, schedules and workers."""

from __future__ import annotations

import asyncio

import rich_click as click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pgbus.admin import Admin, BusStatus, ListenerStatus, WorkerStatus
from pgbus.cli.global_options import database_options
from pgbus.cli.options import Seconds, json_option, with_admin
from pgbus.cli.output import age, ago, console, flagged, number, print_json, table
from pgbus.cli.schedules import schedule_table
from pgbus.database.migrate.versions import find_encoding_fault


@click.command()
@database_options
@json_option
@click.option(
    "--watch",
    type=Seconds(min=0.1),
    is_flag=False,
    flag_value=2.0,
    metavar="[SECONDS]",
    help="Refresh every 2 seconds, or every SECONDS, until Ctrl-C.",
)
def status(as_json: bool, watch: float | None) -> None:
    """Show the state of the bus: outbox, log, listeners, schedules, workers, leader."""
    if watch is None:
        found = with_admin(lambda admin: admin.status())
        _print(found, as_json=as_json)
        return
    try:
        with_admin(lambda admin: _watch(admin, interval=watch, as_json=as_json))
    except KeyboardInterrupt:
        return


def _print(found: BusStatus, *, as_json: bool) -> None:
    if as_json:
        print_json(_as_json(found))
    else:
        console().print(_screen(found))


async def _watch(admin: Admin, *, interval: float, as_json: bool) -> None:
    out = console()
    if as_json or not out.is_terminal:
        while True:
            _print(await admin.status(), as_json=as_json)
            await asyncio.sleep(interval)
    with Live(console=out, screen=True, auto_refresh=False) as live:
        while True:
            live.update(_screen(await admin.status()), refresh=True)
            await asyncio.sleep(interval)


def _as_json(found: BusStatus) -> dict[str, object]:
    return {
        "outbox_waiting": found.outbox_waiting,
        "outbox_scheduled": found.outbox_scheduled,
        "outbox_age": found.outbox_age,
        "log_head": found.log_head,
        "encoding": found.encoding,
        "leader": found.leader.name if found.leader else None,
        "listeners": found.listeners,
        "workers": found.workers,
        "schedules": found.schedules,
    }


def _screen(found: BusStatus) -> RenderableType:
    schedules: list[RenderableType] = [Text(), schedule_table(found.schedules)] if found.schedules else []
    failures = _failures(found.workers)
    return Group(
        _summary(found), Text(), _listeners(found), *schedules, Text(), _workers(found.workers),
        *([Text(), *failures] if failures else []),
    )  # fmt: skip


def _summary(found: BusStatus) -> Table:
    rows = Table.grid(padding=(0, 2))
    rows.add_row(Text("outbox", style="bold"), _outbox(found))
    rows.add_row(Text("log head", style="bold"), number(found.log_head))
    rows.add_row(Text("leader", style="bold"), _leader(found.leader))
    if fault := find_encoding_fault(found.encoding):
        rows.add_row(Text("encoding", style="bold"), Text(fault, style="yellow"))
    return rows


def _outbox(found: BusStatus) -> Text:
    text = Text(f"{number(found.outbox_waiting)} waiting")
    if found.outbox_waiting:
        text.append(f", the oldest for {age(found.outbox_age)}", style="yellow" if found.outbox_age > 10 else "")
    return text.append(f", {number(found.outbox_scheduled)} scheduled")


def _leader(leader: WorkerStatus | None) -> Text:
    if leader is None:
        return Text("none: no event enters the log until a worker runs", style="red")
    text = Text(leader.name)
    return text.append(f" for {ago(leader.leading_since)}", style="dim") if leader.leading_since else text


def _listeners(found: BusStatus) -> RenderableType:
    if not found.listeners:
        return Text("no listeners are registered", style="dim")
    columns = ("lag", "behind", "in flight", "retrying", "blocked", "dead", "workers")
    rows = table("listener", "state", *columns, right=columns, wide=("listener",))
    failing = {part for worker in found.workers if worker.live for part in worker.failures}
    for listener in found.listeners:
        running = sum(worker.live and listener.listener_name in worker.listeners for worker in found.workers)
        has_failed = f"listener {listener.listener_name}" in failing
        rows.add_row(*_listener_cells(listener, running=running, has_failed=has_failed))
    return rows


def _listener_cells(listener: ListenerStatus, *, running: int, has_failed: bool) -> tuple[RenderableType, ...]:
    return (
        Text(listener.listener_name, style="bold"),
        Text("failed", style="red") if has_failed else _listener_state(listener),
        flagged(listener.lag_events, "yellow"),
        age(listener.lag_seconds) if listener.lag_events else Text("-", style="dim"),
        flagged(listener.in_flight, ""),
        flagged(listener.retrying, "yellow"),
        flagged(listener.blocked, "red"),
        flagged(listener.dead, "red"),
        Text(str(running), style="" if running else "red"),
    )


def _listener_state(listener: ListenerStatus) -> Text:
    return Text(listener.state, style="green" if listener.state == "active" else "yellow")


def _failures(workers: tuple[WorkerStatus, ...]) -> list[Text]:
    """Return a line for each part of a live worker that failed by a fault of code."""
    return [
        Text(f"{part} failed in {worker.name}, and restarts after a pause: {error}", style="red")
        for worker in workers
        if worker.live
        for part, error in worker.failures.items()
    ]


def _workers(workers: tuple[WorkerStatus, ...]) -> RenderableType:
    if not workers:
        return Text("no workers are listed", style="dim")
    rows = table(
        "worker", "service", "host", "pid", "version", "state", "since", "listeners",
        right=("pid", "listeners"), wide=("worker", "service", "host"),
    )  # fmt: skip
    for worker in workers:
        rows.add_row(
            Text(worker.name, style="bold"),
            worker.service or Text("-", style="dim"),
            worker.host,
            str(worker.pid),
            worker.version,
            _worker_state(worker),
            ago(worker.started_at if worker.live else worker.last_seen_at),
            number(len(worker.listeners)),
        )
    return rows


def _worker_state(worker: WorkerStatus) -> Text:
    if not worker.live:
        return Text("gone", style="red")
    return Text("leads", style="cyan") if worker.leading else Text("live", style="green")
