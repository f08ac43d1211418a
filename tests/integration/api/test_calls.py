"""Procedures of an API, and the features that a worker runs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import pgbus
from pgbus import Api
from tests.conftest import Connect
from tests.support.auth import Heard, working
from tests.support.workers import RPC_TIMEOUT


class MathApi(Api):
    def __init__(self, bus: pgbus.Bus) -> None:
        self._bus = bus

    def half(self, number: int) -> float:
        if number < 0:
            raise ValueError("too little")
        return number / 2

    async def quarter(self, number: int) -> float:
        return float(await self._bus.math.half.call_async(number=number)) / 2

    def eighth(self, number: int) -> float:
        return float(self._bus.math.quarter(number=number)) / 2

    class Meta:
        name = "math"


async def test_public_methods_of_a_registered_api_are_called_through_the_bus(bus: pgbus.Bus) -> None:
    bus.client.register_api(MathApi(bus))
    async with working(bus):
        assert await bus.math.half.call_async(number=4) == 2.0
        # A procedure may call others that the same worker serves, from a thread as from the event loop.
        assert await bus.math.eighth.call_async(number=8) == 1.0
        assert await asyncio.to_thread(bus.math.half, number=4) == 2.0
        assert await asyncio.to_thread(bus.math.half.call, number=4, bus_options={"timeout": RPC_TIMEOUT}) == 2.0
        assert await bus.client.call_rpc_remote("math", "half", {"number": 4}, {"returns": str | float}) == 2.0


async def test_a_call_fails_with_an_error_that_says_why(bus: pgbus.Bus) -> None:
    bus.client.register_api(MathApi(bus))
    async with working(bus):
        with pytest.raises(pgbus.LightbusWorkerError, match="too little"):
            await bus.math.half.call_async(number=-1)
        with pytest.raises(pgbus.InvalidArguments, match="nummer"):
            await bus.math.half.call_async(nummer=1)
        with pytest.raises(pgbus.LightbusTimeout, match=r"math\.third"):
            await bus.math.third.call_async(number=1)
        assert await bus.math.half.call_async(number=4) == 2.0


async def test_a_handler_may_call_a_procedure_of_its_own_worker(bus: pgbus.Bus) -> None:
    heard = Heard()
    bus.client.register_api(MathApi(bus))
    bus.auth.anything.listen(lambda event, number: heard(bus.math.half(number=number)), listener_name="halve")
    async with working(bus):
        await bus.auth.anything.fire_async(number=6)
        assert await heard.wait(1) == [3.0]


@pytest.mark.parametrize("features", [["events"], ["rpcs"], []])
async def test_a_worker_does_only_what_the_features_of_its_bus_say(
    database: str, connect: Connect, features: list[str]
) -> None:
    connection = await connect(database)
    async with pgbus.create(database, features=features, rpc_timeout=RPC_TIMEOUT) as bus:
        bus.client.register_api(MathApi(bus))
        bus.auth.user_deleted.listen(lambda username: None, listener_name="gone")
        async with working(bus):
            assert await connection.fetchval("SELECT count(*) FROM pgbus.listeners") == ("events" in features)
            if "rpcs" in features:
                assert await bus.math.half.call_async(number=4) == 2.0
            else:
                with pytest.raises(pgbus.NoWorkerAvailable):
                    await bus.math.half.call_async(number=4)


@pytest.mark.parametrize("features", ["events", ["evnets"]])
def test_a_feature_that_there_is_not_is_refused(features: Any) -> None:
    with pytest.raises(pgbus.UnsupportedUse, match="features are"):
        pgbus.create(features=features)


async def test_an_api_that_is_registered_while_the_worker_runs_is_served(bus: pgbus.Bus) -> None:
    async with working(bus):
        await asyncio.to_thread(bus.client.register_api, MathApi(bus))
        assert await bus.math.half.call_async(number=4, bus_options={"wait": True}) == 2.0
