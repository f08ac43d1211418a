"""`pgbus top`: what each key does, and what is shown."""

from __future__ import annotations

import io
from datetime import UTC, datetime

from rich.console import Console, RenderableType

from pgbus.admin import Activity, BusStatus, ListenerMeasure, ListenerStatus, RunningCall
from pgbus.cli.keys import names_of
from pgbus.cli.top_screen import Details, View, details_screen, ordered, overview, press, table_of

NOW = datetime(2025, 1, 31, 12, tzinfo=UTC)


def listener(name: str, *, lag: int = 0) -> ListenerStatus:
    return ListenerStatus(
        listener_name=name, state="active", service="shop", owner="", patterns=("orders.*",), ordered=False,
        cursor=None, registered_at=NOW, last_seen_at=NOW, lag_events=lag, lag_seconds=float(lag), in_flight=0,
        retrying=0, blocked=0, blocked_keys=0, dead=0,
    )  # fmt: skip


def activity(*listeners: ListenerStatus) -> Activity:
    return Activity(
        window=10.0,
        status=BusStatus(0, 0, 0.0, 0, "UTF8", listeners, (), ()),
        measures={"b": ListenerMeasure("b", done=20, failed=5, p95=0.25)},
        running=(
            RunningCall(
                kind="listener", name="b", worker="worker-1", id=None, position=7, topic="orders.placed", key="adam",
                events=3, attempt=2, started_at=NOW, age=90.0,
            ),
        ),
    )  # fmt: skip


FOUND = activity(listener("a", lag=3), listener("b"), listener("c", lag=9))


def shown(screen: RenderableType, width: int = 120) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(screen)
    return out.getvalue()


def pressed(*keys: str, view: View | None = None) -> View:
    view = (view or View()).keep(FOUND)
    for key in keys:
        after = press(view, key, FOUND)
        assert after is not None
        view = after
    return view


def test_arrows_mark_a_listener_and_stop_at_the_ends() -> None:
    assert pressed().marked == "a"
    assert pressed("down").marked == "b"
    assert pressed("down", "down", "down").marked == "c"
    assert pressed("down", "up", "up").marked == "a"


def test_enter_opens_the_marked_listener_and_escape_goes_back() -> None:
    assert pressed("down", "enter").open_name == "b"
    assert pressed("down", "enter", "down").open_name == "c"
    assert pressed("down", "enter", "escape").open_name is None


def test_keys_that_arrive_together_are_told_apart() -> None:
    assert names_of("\x1b[B\r\x1bsq") == ["down", "enter", "escape", "s", "q"]


def test_q_quits_and_an_unknown_key_does_nothing() -> None:
    assert press(View(), "q", FOUND) is None
    assert pressed("x") == pressed()


def test_s_goes_through_the_orders_and_w_through_the_windows() -> None:
    orders = [[one.listener_name for one in ordered(pressed(*"s" * times), FOUND)] for times in range(6)]
    assert orders == [["a", "b", "c"], ["b", "a", "c"], ["b", "a", "c"], ["c", "a", "b"], ["b", "a", "c"],
                      ["a", "b", "c"]]  # fmt: skip
    assert [pressed(*"w" * times).window for times in range(4)] == [60.0, 300.0, 3600.0, 10.0]


def test_a_view_forgets_listeners_that_are_gone() -> None:
    assert View(marked="z", open_name="z").keep(FOUND) == View(marked="a")
    assert View(marked="z").keep(activity()).marked is None


def test_rates_and_durations_are_of_the_window() -> None:
    text = shown(table_of(FOUND))
    row = next(line for line in text.splitlines() if line.startswith("b "))
    assert row.split() == ["b", "active", "2", "0.5", "250", "ms", "0", "-", "0", "0", "0", "0"]
    assert "90 s" in text
    assert "orders.placed key adam #7 and 2 more" in text


def test_a_small_terminal_shows_the_marked_one_of_many_and_says_how_many_are_left_out() -> None:
    many = activity(*(listener(f"l{number:03}") for number in range(100)))
    text = shown(overview(View(marked="l050"), many, height=24), 80)
    assert "l050" in text
    assert "88 more listeners" in text
    assert len(text.splitlines()) <= 24
    assert max(map(len, text.splitlines())) <= 80


def test_an_open_listener_shows_its_topics_and_that_nobody_runs_it() -> None:
    text = shown(details_screen(View(open_name="b"), FOUND, Details((), ()), height=24))
    assert "orders.*" in text
    assert "none: its events wait" in text
