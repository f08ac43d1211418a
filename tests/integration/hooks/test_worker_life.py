"""Hooks at the start and at the stop of a worker."""

from __future__ import annotations

import asyncio

import pytest

import pgbus
from pgbus.bus import make_worker
from tests.support import eventually
from tests.support.waiting import PATIENCE
from tests.support.workers import open_bus, running


async def test_stop_hooks_run_after_the_drain_whatever_one_of_them_raises(
    bus: pgbus.Bus, caplog: pytest.LogCaptureFixture
) -> None:
    order: list[str] = []
    started, gate = asyncio.Event(), asyncio.Event()

    @bus.listener("a.b", name="tested")
    async def handle(event: dict[str, int]) -> None:
        started.set()
        await gate.wait()
        order.append("handled")

    @bus.client.on_stop()
    def fail(client: pgbus.BusClient) -> None:
        order.append("failed")
        raise ValueError("on its way out")

    @bus.client.after_worker_stopped()
    async def publish() -> None:
        await bus.publish({}, topic="worker.stopped")
        order.append("published")

    bus.client.hook_registry.add_plugin(_Stopped(order))
    bus.client.on_stop(lambda any_name: order.append(type(any_name).__name__), before_plugins=True)

    async with running(bus) as worker:
        await bus.publish({}, topic="a.b")
        await asyncio.wait_for(started.wait(), PATIENCE)
        worker.request_stop()
        gate.set()
        await worker.stop()
    assert order == ["handled", "BusClient", "plugin", "failed", "published"]
    assert "on its way out" in caplog.text


class _Stopped:
    def __init__(self, order: list[str]) -> None:
        self._order = order

    async def after_worker_stopped(self, *, client: pgbus.BusClient) -> None:
        self._order.append("plugin")


async def test_stop_hooks_run_when_the_worker_fails_but_not_when_it_never_started(database: str) -> None:
    order: list[str] = []
    bus = pgbus.create("postgresql://localhost:1/nothing")
    bus.client.on_start(lambda: order.append("start"))
    bus.client.on_stop(lambda: order.append("stop"))
    with pytest.raises(pgbus.DatabaseUnreachableError):
        await make_worker(bus).run()
    assert order == ["start", "stop"]

    async with open_bus(database) as other:
        other.client.on_stop(lambda: order.append("never"))

        @other.client.on_start()
        def fail() -> None:
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await make_worker(other).run()
    assert order == ["start", "stop"]


async def test_a_second_stop_request_leaves_a_stop_hook_that_hangs(
    bus: pgbus.Bus, caplog: pytest.LogCaptureFixture
) -> None:
    started = asyncio.Event()

    @bus.client.on_stop()
    async def hang() -> None:
        started.set()
        await asyncio.Event().wait()

    async with running(bus) as worker:
        worker.request_stop()
        await asyncio.wait_for(started.wait(), PATIENCE)
        worker.request_stop()
    assert "on_stop hooks still ran" in caplog.text


async def test_start_hooks_run_around_plugins_also_those_added_meanwhile(
    bus: pgbus.Bus,
) -> None:
    order: list[str] = []

    class Starting:
        async def before_worker_start(self) -> None:
            order.append("plugin")

    def first() -> None:
        order.append("first")
        bus.client.on_start(lambda: order.append("added"))

    bus.client.on_start(lambda: order.append("last"))
    bus.client.before_worker_start(first, before_plugins=True)
    bus.client.hook_registry.add_plugin(Starting())
    async with running(bus):
        await eventually(lambda: len(order) == 4)
    assert order == ["first", "plugin", "last", "added"]
