"""`pgbus top`: the work of the bus, live: rates, lag, durations and failures of each listener, and what runs now."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import rich_click as click
from rich.console import RenderableType
from rich.live import Live

from pgbus.admin import Activity, Admin, DeadFilter
from pgbus.cli.global_options import database_options
from pgbus.cli.keys import pressed_keys
from pgbus.cli.options import Seconds, json_option, with_admin
from pgbus.cli.output import console, print_json
from pgbus.cli.top_screen import Details, View, details_screen, overview, press, table_of

# Seconds: how far back the failures of one listener are shown.
_FAILURE_WINDOW = 3600.0


@click.command()
@database_options
@click.option(
    "--window",
    type=Seconds(min=1, max=86_400),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="Rates and durations are those of the last SECONDS.",
)
@click.option(
    "--interval",
    type=Seconds(min=0.1),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Refresh every SECONDS.",
)
@click.option("--once", is_flag=True, help="Print the state once, as in a pipe.")
@json_option
def top(*, window: float, interval: float, once: bool, as_json: bool) -> None:
    """Show the work of the bus, live: rates, lag, p95 and failures of each listener, and what runs now.

    In a pipe, and with --json, the state is printed once. The screen says which keys do what.
    """
    if once or as_json or not console().is_terminal:
        found = with_admin(lambda admin: admin.activity(window=window))
        if as_json:
            print_json(_as_json(found))
        else:
            console().print(table_of(found))
        return
    with suppress(KeyboardInterrupt):
        with_admin(lambda admin: _watch(admin, View(window=window), interval=interval))


def _as_json(found: Activity) -> dict[str, object]:
    status = found.status
    return {
        "window": found.window,
        "outbox_waiting": status.outbox_waiting,
        "outbox_age": status.outbox_age,
        "leader": status.leader.name if status.leader else None,
        "listeners": [
            {
                "listener_name": one.listener_name,
                "state": one.state,
                "rate": found.rate(one.listener_name),
                "failure_rate": found.failure_rate(one.listener_name),
                "p95": found.p95(one.listener_name),
                "lag_events": one.lag_events,
                "lag_seconds": one.lag_seconds,
                "in_flight": one.in_flight,
                "retrying": one.retrying,
                "blocked": one.blocked,
                "dead": one.dead,
            }
            for one in status.listeners
        ],
        "running": found.running,
    }


async def _watch(admin: Admin, view: View, *, interval: float) -> None:
    out = console()
    async with pressed_keys() as keys:
        with Live(console=out, screen=True, auto_refresh=False) as live:
            while True:
                found = await admin.activity(window=view.window)
                view = view.keep(found)
                details = await _look_closer(admin, view)
                deadline = asyncio.get_running_loop().time() + interval
                # A key changes the screen at once, but asks the database again only for what it does not know yet.
                while True:
                    live.update(_screen(view, found, details, height=out.height), refresh=True)
                    key = await _next_key(keys, deadline)
                    if key is None:
                        break
                    pressed = press(view, key, found)
                    if pressed is None:
                        return
                    needs_look = (pressed.open_name, pressed.window) != (view.open_name, view.window)
                    view = pressed
                    if needs_look:
                        break


def _screen(view: View, found: Activity, details: Details | None, *, height: int) -> RenderableType:
    return details_screen(view, found, details, height=height) if details else overview(view, found, height=height)


async def _next_key(keys: asyncio.Queue[str], deadline: float) -> str | None:
    """The next key, or None at the deadline."""
    with suppress(TimeoutError):
        async with asyncio.timeout_at(deadline):
            return await keys.get()
    return None


async def _look_closer(admin: Admin, view: View) -> Details | None:
    if view.open_name is None:
        return None
    groups = await admin.dead_letters.summarize(DeadFilter(listener_name=view.open_name))
    failures = await admin.failures(view.open_name, window=_FAILURE_WINDOW)
    return Details(groups=groups, failures=failures)
