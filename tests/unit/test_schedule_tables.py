"""What `pgbus schedules` prints on a terminal of 80 columns."""

import io
import re
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import uuid4

from rich.console import Console

from pgbus.admin import ScheduleRun, ScheduleStatus
from pgbus.cli.schedules import run_table, schedule_table
from pgbus.cli.tables import Listing

DUE = datetime(2026, 1, 31, 3, tzinfo=UTC)


def lines(table: Listing) -> list[str]:
    """The table as it is shown, each line with single spaces."""
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return [re.sub(" +", " ", line).strip() for line in console.file.getvalue().splitlines()]


def a_schedule(*, state: Literal["active", "paused"] = "active", outcome: str | None = None) -> ScheduleStatus:
    return ScheduleStatus(
        schedule_name="shop-bus.refresh",
        rule="0 3 * * * in UTC",
        missed="once",
        state=state,
        service="shop",
        next_run_at=datetime.now(UTC) + timedelta(hours=10, seconds=30),
        running=False,
        running_on=None,
        last_started_at=datetime.now(UTC) - timedelta(hours=3, seconds=30) if outcome else None,
        last_outcome=outcome,
        last_duration=0.25 if outcome else None,
        last_error=None,
        registered_at=DUE,
        last_seen_at=datetime.now(UTC) - timedelta(hours=4, seconds=30),
    )


def a_run(*, error: str | None = None) -> ScheduleRun:
    return ScheduleRun(
        run_id=uuid4(),
        schedule_name="shop-bus.refresh",
        due_at=DUE,
        attempt=1,
        worker="web-17",
        started_at=DUE + timedelta(milliseconds=2),
        finished_at=DUE + timedelta(milliseconds=9),
        outcome="failed" if error else "done",
        duration=0.007,
        error=error,
    )


def test_a_schedule_takes_one_line_of_80_columns() -> None:
    [header, *rows] = lines(schedule_table((a_schedule(outcome="done"), a_schedule(), a_schedule(state="paused"))))
    assert header == "SCHEDULE RULE NEXT RUN LAST RUN TOOK SEEN"
    assert rows == [
        "shop-bus.refresh 0 3 * * * in UTC in 10 h done 3 h ago 250 ms 4 h ago",
        "shop-bus.refresh 0 3 * * * in UTC in 10 h - - 4 h ago",
        "shop-bus.refresh 0 3 * * * in UTC paused - - 4 h ago",
    ]


def test_what_a_run_raised_is_told_in_words_and_not_in_letters() -> None:
    table = run_table((a_run(error="Traceback (most recent call last):\n  ...\nRuntimeError: no room left"), a_run()))
    assert lines(table) == [
        "DUE LATE TOOK ATTEMPT WORKER OUTCOME",
        "2026-01-31 03:00:00Z 2 ms 7 ms 1 web-17 failed: RuntimeError: no roo…",
        "2026-01-31 03:00:00Z 2 ms 7 ms 1 web-17 done",
    ]
