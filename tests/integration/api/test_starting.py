"""Hooks at the start of a worker, and the listeners that it is told to run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import pgbus
from pgbus.bus import make_worker
from pgbus.telemetry import Settled
from tests.support.auth import Heard, working

HookMaker = Callable[[Callable[[pgbus.BusClient | None], None]], Callable[..., Any]]


def _plain(note: Callable[[pgbus.BusClient | None], None]) -> Callable[[], None]:
    return lambda: note(None)


def _plain_with_client(note: Callable[[pgbus.BusClient | None], None]) -> Callable[[pgbus.BusClient], None]:
    return lambda client: note(client)


def _async(note: Callable[[pgbus.BusClient | None], None]) -> Callable[[], Awaitable[None]]:
    async def on_start() -> None:
        note(None)

    return on_start


def _async_with_client(note: Callable[[pgbus.BusClient | None], None]) -> Callable[..., Awaitable[None]]:
    async def on_start(*, client: pgbus.BusClient) -> None:
        note(client)

    return on_start


def _any(note: Callable[[pgbus.BusClient | None], None]) -> Callable[..., None]:
    def on_start(bus_client: pgbus.BusClient, extra: int = 1, **rest: object) -> None:
        note(bus_client)

    return on_start


@pytest.mark.parametrize(
    ("make", "with_client"),
    [(_plain, False), (_plain_with_client, True), (_async, False), (_async_with_client, True), (_any, True)],
)
async def test_a_start_hook_is_called_once_and_gets_the_client_if_it_takes_it(
    bus: pgbus.Bus,
    make: HookMaker,
    with_client: bool,
) -> None:
    heard, given = Heard(), []

    def note(client: pgbus.BusClient | None) -> None:
        given.append(client)
        bus.auth.user_deleted.listen(lambda username: heard(username), listener_name="gone")

    hook = make(note)
    assert bus.client.on_start()(hook) is hook
    bus.client.on_start(hook)
    async with working(bus):
        await bus.auth.user_deleted.fire_async(username="adam")
        await heard.wait(1)
    async with working(bus):
        await bus.auth.user_deleted.fire_async(username="eve")
        assert await heard.wait(2) == ["adam", "eve"]
    assert given == [bus.client if with_client else None]


async def test_what_a_start_hook_raises_ends_the_worker(bus: pgbus.Bus) -> None:
    @bus.client.on_start()
    def on_start() -> None:
        raise ValueError("not today")

    worker = make_worker(bus)
    with pytest.raises(ValueError, match="not today"):
        await worker.run()
    await worker.stop()


async def test_a_worker_may_be_stopped_while_a_start_hook_waits(bus: pgbus.Bus) -> None:
    started = asyncio.Event()

    async def on_start() -> None:
        started.set()
        await asyncio.Event().wait()

    bus.client.on_start(on_start)
    worker = make_worker(bus)
    task = asyncio.create_task(worker.run())
    await started.wait()
    await worker.stop()
    await task
    assert not worker.ready.is_set()


async def test_a_start_hook_may_fire_and_listeners_named_in_it_may_be_selected(bus: pgbus.Bus) -> None:
    heard, settled = Heard(), asyncio.Event()
    bus.telemetry.observe(lambda happening: settled.set() if isinstance(happening, Settled) else None)

    def on_start() -> None:
        for name in ("wanted", "other"):
            bus.auth.user_deleted.listen(
                lambda username, name=name: heard((name, username)), listener_name=name, bus_options={"since": "0"}
            )
        bus.auth.user_deleted.fire(username="adam")

    bus.client.on_start(on_start)
    worker = make_worker(bus, only=["wanted"])
    task = asyncio.create_task(worker.run())
    await settled.wait()
    await worker.stop()
    await task
    assert heard.calls == [("wanted", "adam")]


async def test_a_worker_told_to_run_a_listener_that_is_not_there_says_so(bus: pgbus.Bus) -> None:
    with pytest.raises(pgbus.ConfigurationError, match="no listener, procedure or task named 'nobody'"):
        await make_worker(bus, only=["nobody"]).run()
