"""`pgbus status`: a summary of outbox, log, listeners, schedules and workers."""

from __future__ import annotations

import asyncio

import rich_click as click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from pgbus.admin import Admin, BusStatus, ListenerStatus, WorkerStatus
from pgbus.cli.global_options import database_options
from pgbus.cli.options import Seconds, json_option, with_admin
from pgbus.cli.output import ago, console, flagged, number, print_json
from pgbus.cli.schedules import schedule_table
from pgbus.cli.tables import Column, Listing
from pgbus.database.migrate.versions import find_encoding_fault
from pgbus.telemetry.figures import duration


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
        "leader_session": found.leader_session,
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


def _summary(found: BusStatus) -> Text:
    lines = [
        _fact("outbox", describe_outbox(found)),
        _fact("log", _log(found.log_head)),
        _fact("leader", describe_leader(found)),
    ]
    if fault := find_encoding_fault(found.encoding):
        lines.append(_fact("encoding", Text(fault, style="yellow")))
    return Text("\n").join(lines)


def _fact(name: str, value: Text) -> Text:
    return Text.assemble((f"{name:<10}", "bold"), value)


def describe_outbox(found: BusStatus) -> Text:
    """Return how many events wait to enter the log, and for how long."""
    text = Text(f"{number(found.outbox_waiting)} waiting")
    if found.outbox_waiting:
        style = "yellow" if found.is_late else ""
        text.append(f", the oldest for {duration(found.outbox_age)}", style=style)
    return text.append(f", {number(found.outbox_scheduled)} scheduled")


def _log(head: int) -> Text:
    if not head:
        return Text("empty")
    # A new leader skips some, and so does a publisher that rolls back: a reader would miss events that never were.
    return Text(f"ends at position {number(head)}").append(" (positions have gaps, which are not events)", style="dim")


def describe_leader(found: BusStatus) -> Text:
    """Return who leads, or why nobody does and what to do about it."""
    leader = found.leader
    if leader and leader.hangs:
        return Text(
            f"{leader.name} hangs: silent for {duration(leader.silent_for)}, and no event enters the log; "
            f"end process {leader.pid} on {leader.host}, and another worker leads",
            style="red",
        )
    if leader:
        text = Text(leader.name)
        if leader.leading_since:
            text.append(f" for {ago(leader.leading_since)}", style="dim")
        if found.is_late:
            text.append("; events wait all the same: `pgbus doctor` may say what holds them up", style="yellow")
        return text
    if found.leader_session:
        return Text(
            f"hangs: the database session {found.leader_session} leads, but its worker is gone; "
            f"end it with SELECT pg_terminate_backend({found.leader_session})",
            style="red",
        )
    live = [worker for worker in found.workers if worker.live]
    if not live:
        return Text("none: no event enters the log until a worker runs", style="red")
    if found.is_asleep:
        if not found.is_late:
            return Text("none: the bus sleeps, as nothing is owed; the next event wakes it", style="dim")
        return Text("none: the bus sleeps, and what waits does not wake its workers; start them again", style="red")
    if hung := next((worker for worker in live if worker.hangs), None):
        return Text(
            f"none: {hung.name} hangs: silent for {duration(hung.silent_for)}; "
            f"end process {hung.pid} on {hung.host}, and start it again",
            style="red",
        )
    # The server ends the session of a leader that hangs after a second, long before its worker counts as one that does.
    return Text("none: a worker that runs leads within seconds, unless it hangs", style="yellow")


def _listeners(found: BusStatus) -> RenderableType:
    if not found.listeners:
        return Text("no listeners are registered", style="dim")
    rows = Listing(
        Column(heading="listener", elastic=True),
        Column(heading="state"),
        Column(heading="lag", right=True),
        Column(heading="behind", right=True),
        Column(heading="in flight", right=True, rank=2),
        Column(heading="retrying", right=True, rank=1),
        Column(heading="blocked", right=True),
        Column(heading="dead", right=True),
        Column(heading="workers", right=True),
    )
    failing = {part for worker in found.workers if worker.live for part in worker.failures}
    for listener in found.listeners:
        running = sum(worker.live and listener.listener_name in worker.listeners for worker in found.workers)
        has_failed = f"listener {listener.listener_name}" in failing
        rows.add(*_listener_cells(listener, running=running, has_failed=has_failed))
    return rows


def _listener_cells(listener: ListenerStatus, *, running: int, has_failed: bool) -> tuple[str | Text, ...]:
    return (
        Text(listener.listener_name, style="bold"),
        Text("failed", style="red") if has_failed else _listener_state(listener),
        flagged(listener.lag_events, "yellow"),
        duration(listener.lag_seconds) if listener.lag_events else Text("-", style="dim"),
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
    rows = Listing(
        Column(heading="worker", elastic=True),
        Column(heading="service", elastic=True, rank=3),
        Column(heading="host", elastic=True, rank=2),
        Column(heading="pid", right=True),
        Column(heading="version", rank=5),
        Column(heading="state"),
        Column(heading="since", right=True, rank=1),
        Column(heading="listeners", right=True, rank=4),
    )
    for worker in workers:
        rows.add(
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
    if worker.asleep:
        return Text("asleep", style="green")
    if worker.hangs:
        return Text(f"silent for {duration(worker.silent_for)}", style="red")
    return Text("leads", style="cyan") if worker.leading else Text("live", style="green")
