"""Following the log."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from pgbus.admin import Admin, EventFilter
from pgbus.config import Config
from pgbus.errors import (
    DatabaseUnreachableError,
)
from tests.support.rows import Rows
from tests.support.waiting import PATIENCE


async def test_follow_yields_what_enters_the_log_from_now_on(admin: Admin, rows: Rows) -> None:
    await rows.event(1)
    async with aclosing(admin.follow(poll_interval=0.02)) as following:
        first = asyncio.ensure_future(anext(following))
        while not first.done():  # until the follower has read the log's head, it may miss what comes
            await rows.event(2 + await rows.connection.fetchval("SELECT max(position) FROM pgbus.events"), "later")
            await asyncio.wait([first], timeout=0.05)
        assert (await first).event.topic == "later"


async def test_follow_begins_after_a_position_and_filters(admin: Admin, rows: Rows) -> None:
    for position in range(1, 251):
        await rows.event(position, "even" if position % 2 == 0 else "odd")
    async with aclosing(admin.follow(EventFilter(after=10, topic="even"))) as following:
        found = [(await anext(following)).event.position for _ in range(120)]
    assert found == list(range(12, 251, 2))


async def test_follow_is_woken_by_a_notification(admin: Admin, rows: Rows) -> None:
    await rows.event(1)
    async with aclosing(admin.follow(EventFilter(after=0), poll_interval=60)) as following:
        await anext(following)
        second = asyncio.ensure_future(anext(following))
        async with rows.connection.transaction():
            await rows.event(2)
            await rows.connection.execute("SELECT pg_notify('pgbus_work', '1')")
        assert (await asyncio.wait_for(second, PATIENCE)).event.position == 2


async def test_a_connection_that_is_lost_while_following_is_told_as_such(database: str, rows: Rows) -> None:
    await rows.event(1)

    async def follow() -> None:
        async with Admin.connect(Config(dsn=database)) as admin:
            async for _ in admin.follow(EventFilter(after=0), poll_interval=0.01):
                await rows.connection.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND pid <> pg_backend_pid()"
                )

    with pytest.raises(DatabaseUnreachableError, match="the connection was lost"):
        await follow()
