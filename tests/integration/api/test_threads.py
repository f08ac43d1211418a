"""The blocking forms, and buses and listeners that come late."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import pgbus
from tests.support.auth import AuthApi, Heard, working


async def test_blocking_forms_work_in_threads_and_in_plain_handlers(bus: pgbus.Bus) -> None:
    heard = Heard()

    def pass_on(username: str) -> None:
        heard(username)
        if username != "last":
            bus.auth.user_deleted.fire(username="last")

    async def not_on_the_loop(username: str) -> None:
        try:
            bus.auth.user_deleted.fire(username="never")
        except pgbus.CannotBlockHere as error:
            heard(type(error))

    bus.auth.user_deleted.listen(pass_on, listener_name="pass_on")
    bus.auth.user_deleted.listen(not_on_the_loop, listener_name="not_on_the_loop")
    async with working(bus):
        await asyncio.to_thread(bus.auth.user_deleted.fire, username="first")
        calls = await heard.wait(4)
    assert sorted(map(str, calls)) == sorted(map(str, ["first", "last", *[pgbus.CannotBlockHere] * 2]))


@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_worker_that_runs_takes_up_a_new_listener(bus: pgbus.Bus, in_thread: bool) -> None:
    heard = Heard()

    def listen() -> None:
        bus.auth.user_deleted.listen(lambda username: heard(username), listener_name="late", bus_options={"since": "0"})

    async with working(bus):
        await bus.auth.user_deleted.fire_async(username="adam")
        if in_thread:
            await asyncio.to_thread(listen)
        else:
            listen()
        assert await heard.wait(1) == ["adam"]


async def test_two_buses_in_one_process_are_independent(server: Any, upgraded_template: str, database: str) -> None:
    with server.temporary_database(template=upgraded_template) as other_database:
        heard = Heard()
        async with pgbus.create(database) as one, pgbus.create(other_database) as two:
            for name, bus in (("one", one), ("two", two)):
                bus.client.register_api(AuthApi())
                bus.auth.user_deleted.listen(lambda username, name=name: heard((name, username)), listener_name="gone")
            async with working(one), working(two):
                await one.auth.user_deleted.fire_async(username="adam")
                await heard.wait(1)
                await two.auth.user_deleted.fire_async(username="eve")
                assert await heard.wait(2) == [("one", "adam"), ("two", "eve")]
