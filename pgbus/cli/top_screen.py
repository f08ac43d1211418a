"""The screens of `pgbus top`, and what each key does to them: no terminal and no database here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from rich.console import Group, RenderableType
from rich.text import Text

from pgbus.admin import Activity, DeadGroup, Failure, ListenerStatus, RunningCall
from pgbus.cli.output import LONGEST_ERROR, clip, flagged, instant, number
from pgbus.cli.printable import on_one_line
from pgbus.cli.status import describe_leader, describe_outbox
from pgbus.cli.tables import Column, Listing
from pgbus.telemetry.figures import counted, duration

T = TypeVar("T")

# Seconds: what `w` goes through.
WINDOWS = (10.0, 60.0, 300.0, 3600.0)
# Seconds that a call has run for, from which on it is shown in yellow, and in red.
_LONG, _VERY_LONG = 60.0, 600.0
# Rows besides those of listeners: heading, summary, keys, and a few of what runs.
_OTHER_ROWS = 12

_SORTS: dict[str, Callable[[Activity, ListenerStatus], tuple[float, ...]]] = {
    "name": lambda *_: (),
    "rate": lambda found, one: (-found.rate(one.listener_name),),
    "failures": lambda found, one: (-found.failure_rate(one.listener_name), -one.dead),
    "lag": lambda _, one: (-one.lag_events, -one.lag_seconds),
    "p95": lambda found, one: (-(found.p95(one.listener_name) or 0.0),),
}


@dataclass(frozen=True, slots=True)
class View:
    """The state of the screen: the marked listener, the open one (None: the overview), the order and the window."""

    window: float = 60.0
    marked: str | None = None
    open_name: str | None = None
    sort: str = "name"

    def keep(self, found: Activity) -> View:
        """The view without listeners that are no longer there."""
        names = [one.listener_name for one in ordered(self, found)]
        marked = self.marked if self.marked in names else (names[0] if names else None)
        return replace(self, marked=marked, open_name=self.open_name if self.open_name in names else None)


@dataclass(frozen=True, slots=True)
class Details:
    """One listener from near: its dead letters in groups, and its newest failures."""

    groups: Sequence[DeadGroup]
    failures: Sequence[Failure]


def ordered(view: View, found: Activity) -> list[ListenerStatus]:
    """The listeners in the order of the view; those of the same rank by name."""
    return sorted(found.status.listeners, key=lambda one: (_SORTS[view.sort](found, one), one.listener_name))


def press(view: View, key: str, found: Activity) -> View | None:
    """The view after a key; None to quit."""
    names = [one.listener_name for one in ordered(view, found)]
    match key:
        case "q":
            return None
        case "up" | "k" | "down" | "j" if names:
            place = names.index(view.marked) if view.marked in names else 0
            step = -1 if key in ("up", "k") else 1
            marked = names[max(0, min(len(names) - 1, place + step))]
            return replace(view, marked=marked, open_name=marked if view.open_name else None)
        case "enter":
            return replace(view, open_name=view.marked)
        case "escape" | "b":
            return replace(view, open_name=None)
        case "s":
            return replace(view, sort=_after(tuple(_SORTS), view.sort))
        case "w":
            return replace(view, window=_after(WINDOWS, view.window))
        case _:
            return view


def _after(choices: Sequence[T], current: T) -> T:
    place = choices.index(current) if current in choices else -1
    return choices[(place + 1) % len(choices)]


# -------------------------------------------------------------------------------------------------------------- screens


def table_of(found: Activity) -> RenderableType:
    """The state as it is printed once."""
    return Group(
        *_head(found), Text(), _listeners(found, found.status.listeners, marked=None), *_running(found.running)
    )


def overview(view: View, found: Activity, *, height: int) -> RenderableType:
    """The screen of all listeners, of at most `height` rows."""
    shown, hidden = _window_around(ordered(view, found), view.marked, room=max(3, height - _OTHER_ROWS))
    more = [Text(f"{hidden} more listeners", style="dim")] if hidden else []
    left = height - len(shown) - len(more) - 6
    return Group(
        *_head(found),
        Text(),
        _listeners(found, shown, marked=view.marked),
        *more,
        *_running(found.running, most=max(1, left - 4)),
        Text(),
        _keys(f"up/down mark  enter open  s sort: {view.sort}  w window: {duration(view.window)}  q quit"),
    )


def details_screen(view: View, found: Activity, details: Details, *, height: int) -> RenderableType:
    """The screen of one listener."""
    listener = next(one for one in found.status.listeners if one.listener_name == view.open_name)
    workers = [one.name for one in found.status.workers if one.live and listener.listener_name in one.listeners]
    mine = [one for one in found.running if one.kind == "listener" and one.name == listener.listener_name]
    most = max(2, (height - 14) // 3)
    return Group(
        _listeners(found, [listener], marked=None),
        Text(),
        _fact("topics", ", ".join(listener.patterns) or "-"),
        _fact("service", listener.service or "-"),
        _fact("workers", ", ".join(workers) or "none: its events wait"),
        *_running(mine, most=most),
        *_groups(details.groups[:most]),
        *_failures(details.failures[:most]),
        Text(),
        _keys(f"escape back  up/down next listener  w window: {duration(view.window)}  q quit"),
    )


def _window_around(
    listeners: list[ListenerStatus], marked: str | None, *, room: int
) -> tuple[list[ListenerStatus], int]:
    """As many listeners as there is room for, the marked one among them, and how many are left out."""
    place = next((place for place, one in enumerate(listeners) if one.listener_name == marked), 0)
    first = max(0, min(place - room // 2, len(listeners) - room))
    shown = listeners[first : first + room]
    return shown, len(listeners) - len(shown)


def _head(found: Activity) -> list[Text]:
    status = found.status
    live = sum(worker.live for worker in status.workers)
    dead = sum(one.dead for one in status.listeners)
    return [
        _fact("outbox", describe_outbox(status)),
        _fact("leader", describe_leader(status)),
        _fact(
            "totals",
            Text.assemble(
                f"{counted(live, 'worker')}, {counted(len(status.listeners), 'listener')}, ",
                (counted(dead, "dead letter"), "red" if dead else "dim"),
                f"; rates of {duration(found.window)}, at {datetime.now(UTC):%H:%M:%SZ}",
            ),
        ),
    ]


def _fact(name: str, value: str | Text) -> Text:
    return Text.assemble((f"{name:<8}", "bold"), value)


def _keys(text: str) -> Text:
    return Text(text, style="reverse", no_wrap=True, overflow="ellipsis")


def _listeners(found: Activity, shown: Sequence[ListenerStatus], *, marked: str | None) -> RenderableType:
    if not shown:
        return Text("no listeners are registered", style="dim")
    rows = Listing(
        Column(heading="listener", elastic=True),
        Column(heading="state", rank=3),
        Column(heading="done/s", right=True),
        Column(heading="failed/s", right=True),
        Column(heading="p95", right=True),
        Column(heading="lag", right=True),
        Column(heading="behind", right=True),
        Column(heading="in flight", right=True, rank=2),
        Column(heading="retrying", right=True, rank=1),
        Column(heading="blocked", right=True, rank=4),
        Column(heading="dead", right=True),
    )
    for one in shown:
        name, p95 = one.listener_name, found.p95(one.listener_name)
        rows.add(
            Text(name, style="bold reverse" if name == marked else "bold"),
            Text(one.state, style="green" if one.state == "active" else "yellow"),
            _rate(found.rate(name), ""),
            _rate(found.failure_rate(name), "red"),
            Text("-", style="dim") if p95 is None else Text(duration(p95)),
            flagged(one.lag_events, "yellow"),
            duration(one.lag_seconds) if one.lag_events else Text("-", style="dim"),
            flagged(one.in_flight, ""),
            flagged(one.retrying, "yellow"),
            flagged(one.blocked, "red"),
            flagged(one.dead, "red"),
        )
    return rows


def _rate(value: float, style: str) -> Text:
    """A rate, in three digits, or two below 1: a small one is never shown as zero."""
    shown = number(round(value)) if value >= 100 else f"{value:.{3 if value >= 1 else 2}g}"
    return Text(shown, style=style if value else "dim")


def _running(running: Sequence[RunningCall], *, most: int | None = None) -> list[RenderableType]:
    if not running:
        return []
    rows = Listing(
        Column(heading="runs for", right=True),
        Column(heading="what", elastic=True),
        Column(heading="attempt", right=True, rank=2),
        Column(heading="event", elastic=True),
        Column(heading="worker", elastic=True, rank=1),
    )
    for one in running[:most]:
        style = "red" if one.age >= _VERY_LONG else "yellow" if one.age >= _LONG else ""
        rows.add(
            Text(duration(one.age), style=style),
            Text.assemble(("" if one.kind == "listener" else f"{one.kind} ", "dim"), (one.name, "bold")),
            str(one.attempt),
            _subject(one),
            Text(one.worker),
        )
    hidden = len(running) - len(running[:most])
    return [Text(), rows, *([Text(f"{hidden} more run", style="dim")] if hidden else [])]


def _subject(one: RunningCall) -> Text:
    if one.topic is None:
        return Text(str(one.id or "-"), style="dim")
    text = Text.assemble((one.topic, "cyan"))
    if one.key is not None:
        text.append(f" key {on_one_line(one.key)}")
    text.append(f" #{one.position}", style="dim")
    return text.append(f" and {one.events - 1} more") if one.events > 1 else text


def _groups(groups: Sequence[DeadGroup]) -> list[RenderableType]:
    if not groups:
        return []
    rows = Listing(
        Column(heading="dead", right=True), Column(heading="error", elastic=True), Column(heading="last"),
        Column(heading="see", rank=1),
    )  # fmt: skip
    for group in groups:
        rows.add(
            number(group.letters),
            Text(on_one_line(group.error), style="red"),
            instant(group.last_at),
            Text(f"pgbus dead show {group.sample}", style="dim"),
        )
    return [Text(), rows]


def _failures(failures: Sequence[Failure]) -> list[RenderableType]:
    if not failures:
        return []
    rows = Listing(
        Column(heading="failed at"), Column(heading="event", right=True), Column(heading="attempt", right=True),
        Column(heading="took", right=True, rank=1), Column(heading="error", elastic=True),
    )  # fmt: skip
    for one in failures:
        rows.add(
            instant(one.started_at),
            f"#{one.position}",
            f"{one.attempt}{', dead' if one.outcome == 'dead' else ''}",
            duration(one.duration),
            Text(clip(one.error or "-", LONGEST_ERROR), style="red"),
        )
    return [Text(), rows]
