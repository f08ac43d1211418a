"""`pgbus schedules`: list, pause, resume, run and remove schedules."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import rich_click as click
from rich.text import Text

from pgbus.admin import ScheduleRun, ScheduleStatus
from pgbus.cli.changing import change, change_each, change_options
from pgbus.cli.global_options import database_options
from pgbus.cli.options import error_option, json_option, limit_option, period_options, say_done, with_admin
from pgbus.cli.output import LONGEST_ERROR, ago, clip, console, instant, note_more, print_json
from pgbus.cli.tables import Column, Listing
from pgbus.telemetry.figures import counted, duration

_STYLES = {"done": "green", "failed": "red", "lost": "red", "running": "cyan"}


@click.group()
@database_options
def schedules() -> None:
    """List schedules and their runs; pause, resume, run or remove them."""


@schedules.command("list")
@database_options
@json_option
def list_schedules(as_json: bool) -> None:
    """List the registered schedules: their rules, when they are due, and the outcomes of their newest runs."""
    found = with_admin(lambda admin: admin.schedules.list())
    if as_json:
        for schedule in found:
            print_json(schedule)
        return
    console().print(schedule_table(found) if found else "no schedules are registered")


def schedule_table(found: tuple[ScheduleStatus, ...]) -> Listing:
    """Return a table of schedules for a terminal."""
    rows = Listing(
        Column(heading="schedule", elastic=True),
        Column(heading="rule", elastic=True),
        Column(heading="next run", elastic=True),
        Column(heading="last run"),
        Column(heading="took", rank=1),
        Column(heading="seen", rank=2),
    )
    for schedule in found:
        rows.add(
            Text(schedule.schedule_name, style="bold"),
            Text(schedule.rule),
            _next_run(schedule),
            _last_run(schedule),
            Text("-" if schedule.last_duration is None else duration(schedule.last_duration)),
            Text(f"{ago(schedule.last_seen_at)} ago"),
        )
    return rows


def _next_run(schedule: ScheduleStatus) -> Text:
    if schedule.running:
        return Text(f"runs on {schedule.running_on}", style="cyan")
    if schedule.state == "paused":
        return Text("paused", style="yellow")
    if schedule.next_run_at is None:
        return Text("-")
    seconds = (schedule.next_run_at - datetime.now(UTC)).total_seconds()
    return Text(f"in {duration(seconds)}") if seconds >= 0 else Text(f"due for {duration(-seconds)}", style="yellow")


def _last_run(schedule: ScheduleStatus) -> Text:
    if schedule.last_started_at is None:
        return Text("-")
    return _outcome(schedule.last_outcome or "").append(f" {ago(schedule.last_started_at)} ago", style="default")


def _outcome(outcome: str) -> Text:
    return Text(outcome, style=_STYLES.get(outcome, ""))


@schedules.command()
@click.argument("name")
@database_options
@error_option
@period_options("Begun")
@limit_option(20)
@json_option
def history(*, name: str, limit: int, as_json: bool, **filters: Any) -> None:
    """Show the runs of a schedule, the newest first."""
    found = with_admin(lambda admin: admin.schedules.history(name, limit=limit + 1, **filters))
    if as_json:
        for run in found[:limit]:
            print_json(run)
    else:
        console().print(run_table(found[:limit]) if found else "no runs")
    note_more(len(found) > limit, f"the newest {counted(limit, 'run')}")


def run_table(found: tuple[ScheduleRun, ...]) -> Listing:
    """Return a table of runs for a terminal."""
    rows = Listing(
        Column(heading="due"),
        Column(heading="late", rank=2),
        Column(heading="took"),
        Column(heading="attempt", right=True, rank=1),
        Column(heading="worker", elastic=True, rank=3),
        Column(heading="outcome", elastic=True),
    )
    for run in found:
        # The last line of a traceback has the exception.
        error = clip((run.error or "").strip().rpartition("\n")[2], LONGEST_ERROR)
        rows.add(
            instant(run.due_at),
            duration(max(0.0, (run.started_at - run.due_at).total_seconds())),
            "-" if run.duration is None else duration(run.duration),
            str(run.attempt),
            Text(run.worker),
            _outcome(run.outcome).append(f": {error}" if error else "", style="default"),
        )
    return rows


@schedules.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@database_options
@change_options
@json_option
def pause(names: tuple[str, ...], **given: Any) -> None:
    """Start no more runs of schedules, on any worker; a current run continues."""
    change_each("pause_schedule", "schedule", names, said="paused", **given)


@schedules.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@database_options
@change_options
@json_option
def resume(names: tuple[str, ...], **given: Any) -> None:
    """Continue paused schedules; runs that were due meanwhile are not made up for."""
    change_each("resume_schedule", "schedule", names, said="resumed", **given)


@schedules.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@database_options
@change_options
@json_option
def run(names: tuple[str, ...], **given: Any) -> None:
    """Run schedules now, on a worker that declares them."""
    change_each("run_schedule", "schedule", names, said="due now", **given)


@schedules.command()
@click.argument("name")
@database_options
@click.option("--force", is_flag=True, help="Even while a live worker declares it.")
@change_options
@json_option
def remove(name: str, force: bool, as_json: bool, **given: Any) -> None:
    """Remove a schedule; its history stays until it is pruned."""
    with_admin(lambda admin: admin.schedules.check(name))
    done = change("remove_schedule", {"schedule": name, "force": force}, what="schedule", as_json=as_json, **given)
    if done is not None:
        say_done("removed", name, as_json=as_json)
