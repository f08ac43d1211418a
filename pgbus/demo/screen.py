"""The output of the demo: progress as bars on a terminal and as lines in a pipe, then the report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from pgbus.demo.audit import LISTENERS, STORY
from pgbus.demo.orders import Ledger

_LINE_INTERVAL = 1.0  # seconds


@dataclass(slots=True)
class State:
    """How far the run is; `listeners` has (done, retried, dead) by name."""

    orders: int
    ledger: Ledger
    listeners: dict[str, tuple[int, int, int]] = field(default_factory=dict)


class Screen(Protocol):
    def show(self, state: State) -> None: ...


def make_console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)


@contextmanager
def open_screen(console: Console) -> Iterator[Screen]:
    if console.is_terminal:
        label, note = TextColumn("  {task.description:<18}"), TextColumn("{task.fields[note]}")
        with Progress(label, BarColumn(), MofNCompleteColumn(), note, console=console) as progress:
            yield _Bars(progress)
    else:
        yield _Lines(console)


class _Bars:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def show(self, state: State) -> None:
        committed, rolled_back = len(state.ledger.committed), len(state.ledger.rolled_back)
        self._update("orders", committed + rolled_back, state.orders, f"{rolled_back} rolled back")
        for name in LISTENERS:
            done, retried, dead = state.listeners.get(name, (0, 0, 0))
            self._update(name, done + dead, max(1, committed), _note(retried, dead))

    def _update(self, name: str, completed: int, total: int, note: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, note=note)
        self._progress.update(self._tasks[name], completed=completed, total=total, note=note)


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._started_at = time.monotonic()
        self._shown_at = self._started_at

    def show(self, state: State) -> None:
        now = time.monotonic()
        if now - self._shown_at < _LINE_INTERVAL:
            return
        self._shown_at = now
        parts = [f"{len(state.ledger.committed)} committed, {len(state.ledger.rolled_back)} rolled back"]
        for name in LISTENERS:
            done, retried, dead = state.listeners.get(name, (0, 0, 0))
            note = _note(retried, dead)
            parts.append(f"{name} {done}{f' ({note})' if note else ''}")
        self._console.print(f"  {now - self._started_at:3.0f} s  {'; '.join(parts)}", soft_wrap=True)


def _note(retried: int, dead: int) -> str:
    notes = ((retried, "retried"), (dead, "dead"))
    return ", ".join(f"{count} {what}" for count, what in notes if count)


def say(console: Console, text: str) -> None:
    console.print(Text(text, style="bold"))


def print_report(console: Console, ledger: Ledger, summary: Sequence[Any]) -> None:
    console.print()
    say(console, f"{len(ledger.committed)} orders committed, {len(ledger.rolled_back)} rolled back with their events")
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("listener")
    for column in ("delivered", "retried", "dead", "p50 ms", "p99 ms"):
        table.add_column(column, justify="right")
    for row in summary:
        counts = [str(row[name]) for name in ("delivered", "retried", "dead")]
        table.add_row(row["listener_name"], *counts, *(_milliseconds(row[name]) for name in ("p50", "p99")))
    console.print(Padding(table, (0, 0, 0, 2), expand=False))
    console.print(Text("  ms: from publish to handled, of the events that succeeded at once", style="dim"))


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f}"


def print_story(console: Console, order_id: int, rows: Sequence[Any]) -> None:
    """One query of the history, with its result."""
    console.print()
    say(console, f"What happened to order {order_id}, the one without an e-mail address?")
    sql = STORY.replace("$1", f"'{order_id}'")
    shown = Syntax(sql, "sql", background_color="default") if console.is_terminal else sql
    console.print(Padding(shown, (0, 0, 1, 2), expand=False))
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
    for column in ("listener_name", "attempt", "outcome", "seconds_after", "error"):
        table.add_column(column, justify="right" if column in ("attempt", "seconds_after") else "left")
    for row in rows:
        columns = ("listener_name", "attempt", "outcome", "seconds_after", "error")
        table.add_row(*("" if row[name] is None else str(row[name]) for name in columns))
    console.print(Padding(table, (0, 0, 0, 2), expand=False))


def print_verdict(console: Console, ledger: Ledger, problems: Sequence[str]) -> None:
    console.print()
    if not problems:
        committed, rolled_back = len(ledger.committed), len(ledger.rolled_back)
        say(console, "Checked against the database:")
        for line in (
            f"{committed} of {committed} committed orders are in the log, and every listener has handled each",
            f"0 of {rolled_back} rolled-back orders are in the log",
            "stock, reservations and dashboard show each order once, although handlers failed and were retried",
        ):
            _print_marked(console, Text("  ok  ", style="green"), line)
        return
    say(console, f"{len(problems)} problems:")
    for problem in problems[:20]:
        _print_marked(console, Text("  WRONG  ", style="red"), problem)


def _print_marked(console: Console, mark: Text, line: str) -> None:
    """A line after its mark; a terminal gets what does not fit in lines below, which are indented as far."""
    if not console.is_terminal:
        console.print(mark, line, sep="", soft_wrap=True)
        return
    grid = Table.grid()
    grid.add_column(no_wrap=True)
    grid.add_column()
    grid.add_row(mark, Text(line))
    console.print(grid)
