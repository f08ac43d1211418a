"""What the settings of an API do: how long calls and blocking fires wait."""

from __future__ import annotations

import asyncio

import pytest

import pgbus
from pgbus import Api, Event
from tests.conftest import Connect
from tests.support.workers import open_bus, running


class AuthApi(Api):
    user_created = Event(parameters=("username",))

    class Meta:
        name = "auth"


async def test_the_timeout_of_a_call_is_its_own_its_procedures_its_apis_or_a_default(database: str) -> None:
    apis = {"slow": {"rpc_timeout": 0.2}}
    async with open_bus(database, rpc_timeout=0.3, apis=apis) as bus, open_bus(database) as server:

        async def never() -> None:
            await asyncio.Event().wait()

        server.procedure("slow.hasty", timeout=0.15)(never)
        server.procedure("slow.plain")(never)
        server.procedure("other.plain")(never)
        async with running(server):
            for procedure, timeout, seconds in (
                ("slow.plain", 0.1, "0.1"),
                ("slow.hasty", None, "0.15"),
                ("slow.plain", None, "0.2"),
                ("other.plain", None, "0.3"),
            ):
                with pytest.raises(pgbus.CallTimeout, match=f"within {seconds} seconds"):
                    await bus.call(procedure, timeout=timeout)


async def test_a_blocking_fire_gives_up_when_its_api_says_so_and_an_awaited_one_waits(
    database: str, connect: Connect
) -> None:
    owner = await connect(database)
    async with open_bus(database, apis={"auth": {"event_fire_timeout": 0.3}}) as bus:
        bus.client.register_api(AuthApi())
        await bus.auth.user_created.fire_async(username="ann")  # connects, which may take longer than 0.3 s

        async with owner.transaction():
            await owner.execute("LOCK TABLE pgbus.outbox IN ACCESS EXCLUSIVE MODE")
            awaited = asyncio.create_task(bus.auth.user_created.fire_async(username="bob"))
            with pytest.raises(pgbus.PublishTimeout, match=r"auth\.user_created: .* within 0\.3 seconds") as raised:
                await asyncio.to_thread(bus.auth.user_created.fire, username="cid")
            assert isinstance(raised.value, TimeoutError)
            assert not awaited.done()
        await awaited
