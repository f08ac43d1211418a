"""Listeners: paused, resumed, reset, removed."""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest

from pgbus.admin import Admin
from pgbus.errors import (
    InUseError,
)
from tests.support.operators import HOUR, NOON, told_to_reload
from tests.support.rows import Rows


async def test_a_listener_is_paused_and_resumed_and_workers_are_told(
    admin: Admin, rows: Rows, reloads: asyncio.Queue[object]
) -> None:
    await rows.listener("mailer")
    await admin.listeners.pause("mailer")
    assert [one.state for one in await admin.listeners.list()] == ["paused"]
    assert await told_to_reload(reloads)
    await admin.listeners.resume("mailer")
    assert [one.state for one in await admin.listeners.list()] == ["active"]
    assert await told_to_reload(reloads)


@pytest.mark.parametrize(
    ("place", "cursor"),
    [
        ("beginning", 0),
        ("now", 6),
        (3, 3),
        (6, 6),
        (NOON + 2 * HOUR, 2),
        (NOON + 2.5 * HOUR, 3),
        (NOON - HOUR, 1),
        (NOON + 99 * HOUR, 6),
    ],
)
async def test_reset_moves_the_cursor_and_drops_what_waits(
    admin: Admin,
    rows: Rows,
    reloads: asyncio.Queue[object],
    place: object,
    cursor: int,
) -> None:
    for position in range(1, 6):
        await rows.event(position, logged_at=NOON + position * HOUR)
    mailer, stock = await rows.listener("mailer"), await rows.listener("stock")
    await rows.delivery(mailer, 1)
    await rows.delivery(mailer, 2, attempt=2)
    claimed = await rows.delivery(mailer, 3, worker_id=1)
    others = await rows.delivery(stock, 1)
    await rows.dead_letter(mailer, 4)
    assert await admin.listeners.reset("mailer", to=place) == cursor  # type: ignore[arg-type] # one of the kinds it takes
    left = await rows.connection.fetch("SELECT id FROM pgbus.deliveries ORDER BY id")
    assert [row["id"] for row in left] == [claimed, others]
    assert [(one.listener_name, one.cursor, one.dead) for one in await admin.listeners.list()] == [
        ("mailer", cursor, int(cursor > 4)),  # a dead letter that is heard again is open no longer
        ("stock", None, 0),
    ]
    assert await told_to_reload(reloads)


@pytest.mark.parametrize("place", [-1, 3, datetime(2025, 1, 1)])  # noqa: DTZ001 - the point of the test
async def test_reset_to_a_place_outside_the_log_is_refused(admin: Admin, rows: Rows, place: int | datetime) -> None:
    await rows.event(1)
    mailer = await rows.listener("mailer")
    await rows.delivery(mailer, 1)
    with pytest.raises(ValueError, match=r"is not a position of the log|has no time zone"):
        await admin.listeners.reset("mailer", to=place)
    assert await rows.connection.fetchval("SELECT count(*) FROM pgbus.deliveries") == 1


async def test_removing_a_listener_takes_all_that_is_owed_to_it(
    admin: Admin, rows: Rows, reloads: asyncio.Queue[object]
) -> None:
    await rows.event(1)
    mailer, stock = await rows.listener("mailer", "orders.*"), await rows.listener("stock", "orders.*")
    for listener_id in (mailer, stock):
        await rows.delivery(listener_id, 1)
        await rows.dead_letter(listener_id, 1)
    await admin.listeners.remove("mailer")
    for table in ("subscriptions", "deliveries", "dead_letters"):
        left = await rows.connection.fetch(f"SELECT listener_id FROM pgbus.{table}")
        assert [row["listener_id"] for row in left] == [stock]
    assert [one.listener_name for one in await admin.listeners.list()] == ["stock"]
    assert await told_to_reload(reloads)


async def test_a_listener_is_not_removed_while_a_live_worker_runs_it(admin: Admin, rows: Rows) -> None:
    await rows.listener("mailer")
    await rows.worker("worker-1", "mailer")
    await rows.worker("worker-2", "mailer", live=False)
    with pytest.raises(InUseError, match="'mailer' is run by worker-1;"):
        await admin.listeners.remove("mailer")
    assert len(await admin.listeners.list()) == 1
    await admin.listeners.remove("mailer", force=True)
    assert await admin.listeners.list() == ()
