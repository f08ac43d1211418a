"""Calls within one process: what comes back, and who serves."""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pydantic
import pytest

import pgbus
from pgbus import migrate
from tests.support.workers import Inbox, open_bus, running


@dataclass
class User:
    name: str
    is_admin: bool = False


class Address(pydantic.BaseModel):
    city: str


async def test_a_call_brings_the_result_of_an_async_and_of_a_plain_function(bus: pgbus.Bus) -> None:
    @bus.procedure("auth.check_password")
    async def check_password(username: str, password: str) -> bool:
        return (username, password) == ("admin", "secret")

    @bus.procedure("auth.count")
    def count(words: list[str], least: int = 1) -> int:
        return len([word for word in words if len(word) >= least])

    async with running(bus):
        assert await bus.call("auth.check_password", {"username": "admin", "password": "secret"}) is True
        assert await bus.call("auth.check_password", {"username": "admin", "password": "other"}) is False
        assert await bus.call("auth.count", {"words": ["a", "bc"]}) == 2
        assert await bus.call("auth.count", {"words": ["a", "bc"], "least": 2}) == 1


async def test_arguments_and_results_are_cast_on_either_side(bus: pgbus.Bus) -> None:
    got: list[object] = []

    @bus.procedure("users.promote")
    async def promote(user: User, address: Address, at: datetime, more: User | None = None) -> User:
        got.extend((user, address, at, more))
        return User(user.name, is_admin=True)

    at = datetime.fromisoformat("2026-01-02T03:04:05+00:00")
    arguments = {"user": User("adam"), "address": Address(city="London"), "at": at}
    async with running(bus):
        assert await bus.call("users.promote", arguments, returns=User) == User("adam", is_admin=True)
        assert await bus.call("users.promote", arguments) == User("adam", is_admin=True)
        assert await bus.call("users.promote", arguments, returns=dict) == {"name": "adam", "is_admin": True}
        assert got[:4] == [User("adam"), Address(city="London"), at, None]
        with pytest.raises(pgbus.InvalidResult, match=r"does not fit what `returns` asks for: Expected `int`"):
            await bus.call("users.promote", arguments, returns=int)


async def test_a_procedure_may_take_arguments_that_it_does_not_name(bus: pgbus.Bus) -> None:
    @bus.procedure("echo.all")
    async def echo(first: int, **others: Any) -> dict[str, Any]:
        return {"first": first, **others}

    async with running(bus):
        assert await bus.call("echo.all", {"first": 1, "b": [2]}) == {"first": 1, "b": [2]}


async def test_a_bound_method_is_a_procedure(bus: pgbus.Bus) -> None:
    class Api:
        async def double(self, n: int) -> int:
            return 2 * n

    bus.procedure("maths.double")(Api().double)
    async with running(bus):
        assert await bus.call("maths.double", {"n": 4}) == 8


async def test_megabytes_travel_both_ways(bus: pgbus.Bus) -> None:
    @bus.procedure("echo.text")
    async def echo(text: str) -> str:
        return text

    texts = [letter * 5_000_000 for letter in "abc"]
    async with running(bus):
        assert await asyncio.gather(*(bus.call("echo.text", {"text": text}, timeout=60) for text in texts)) == texts


async def test_a_thread_that_blocks_calls_too(bus: pgbus.Bus) -> None:
    @bus.procedure("maths.double")
    def double(n: int) -> int:
        return 2 * n

    @bus.procedure("maths.quadruple")
    def quadruple(n: int) -> int:
        doubled: int = bus.call_sync("maths.double", {"n": n})
        return 2 * doubled

    async with running(bus):
        assert await asyncio.to_thread(bus.call_sync, "maths.quadruple", {"n": 3}) == 12
        with pytest.raises(pgbus.CannotBlockHere, match="await call"):
            bus.call_sync("maths.double", {"n": 1})


async def test_handlers_and_procedures_call_their_own_api(bus: pgbus.Bus) -> None:
    got: Inbox[int] = Inbox()

    @bus.procedure("maths.fibonacci")
    async def fibonacci(n: int) -> int:
        if n < 2:
            return n
        parts = [bus.call("maths.fibonacci", {"n": n - 1}), bus.call("maths.fibonacci", {"n": n - 2})]
        return sum(await asyncio.gather(*parts))

    @bus.listener("numbers.asked", name="answer")
    async def answer(event: int) -> None:
        got.put(await bus.call("maths.fibonacci", {"n": event}))

    async with running(bus):
        await bus.publish(4, topic="numbers.asked")
        assert await got.take(1) == [3]


async def test_a_procedure_declared_while_the_worker_runs_is_served(bus: pgbus.Bus) -> None:
    async with running(bus):

        @bus.procedure("late.comer")
        async def late() -> str:
            return "here"

        assert await bus.call("late.comer", wait=True) == "here"


async def test_only_and_skip_choose_procedures(bus: pgbus.Bus) -> None:
    for name in ("a.one", "a.two"):

        @bus.procedure(name)
        async def procedure() -> None: ...

    async with running(bus, only=["a.one"]):
        assert await bus.call("a.one") is None
        with pytest.raises(pgbus.NoWorkerAvailable):
            await bus.call("a.two")
    async with running(bus, skip=["a.one"]):
        assert await bus.call("a.two") is None


async def test_a_bus_lives_in_any_namespace(empty_database: str) -> None:
    migrate.upgrade(empty_database, namespace="shop")
    async with open_bus(empty_database, namespace="shop") as bus:

        @bus.procedure("maths.double")
        async def double(n: int) -> int:
            return 2 * n

        async with running(bus):
            assert await bus.call("maths.double", {"n": 2}) == 4


async def test_one_caller_serves_and_calls_after_close(bus: pgbus.Bus) -> None:
    @bus.procedure("a.one")
    async def one() -> int:
        return 1

    async with running(bus):
        assert await bus.call("a.one") == 1
        await bus.close()
        assert await bus.call("a.one") == 1
