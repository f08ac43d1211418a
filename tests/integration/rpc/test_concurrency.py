"""How many calls run at once, and that they travel in batches."""

import asyncio
import contextvars

import pgbus
from tests.conftest import Connect
from tests.support.workers import Inbox, running

# -------------------------------------------------------------------------------------------------------- concurrency


async def test_concurrent_calls_run_at_once_up_to_the_procedures_concurrency(bus: pgbus.Bus) -> None:
    started: Inbox[int] = Inbox()
    gate = asyncio.Event()

    @bus.procedure("slow.wait", concurrency=3, timeout=60)
    async def wait(n: int) -> int:
        started.put(n)
        await gate.wait()
        return n

    @bus.procedure("quick.answer")
    async def quick() -> str:
        return "quick"

    async with running(bus):
        calls = [asyncio.create_task(bus.call("slow.wait", {"n": n})) for n in range(7)]
        await started.take(3)
        assert await bus.call("quick.answer") == "quick"  # the other procedure has room of its own
        assert len(started.items) == 3
        gate.set()
        assert await asyncio.gather(*calls) == list(range(7))
    assert sorted(started.items) == list(range(7))


async def test_concurrency_is_ten_by_default(bus: pgbus.Bus) -> None:
    started: Inbox[int] = Inbox()
    gate = asyncio.Event()

    @bus.procedure("slow.wait", timeout=60)
    async def wait(n: int) -> None:
        started.put(n)
        await gate.wait()

    @bus.procedure("quick.answer")
    async def quick() -> None: ...

    async with running(bus):
        calls = [asyncio.create_task(bus.call("slow.wait", {"n": n})) for n in range(12)]
        await started.take(10)
        await bus.call("quick.answer")
        assert len(started.items) == 10
        gate.set()
        await asyncio.gather(*calls)


async def test_many_callers_each_get_their_own_answer(bus: pgbus.Bus) -> None:
    @bus.procedure("echo.number")
    async def echo(n: int) -> int:
        return n

    async with running(bus):
        answers = await asyncio.gather(*(bus.call("echo.number", {"n": n}, timeout=60) for n in range(1000)))
    assert answers == list(range(1000))


async def test_requests_and_replies_travel_in_batches(bus: pgbus.Bus, database: str, connect: Connect) -> None:
    @bus.procedure("echo.number", concurrency=500)
    async def echo(n: int) -> int:
        return n

    connection = await connect(database)
    async with running(bus):
        await bus.call("echo.number", {"n": 0})
        await asyncio.gather(*(bus.call("echo.number", {"n": n}, timeout=60) for n in range(500)))
    # A row's xmin is the transaction that wrote it.
    posted = await connection.fetchval("SELECT count(DISTINCT xmin::text) FROM pgbus.rpc_responses")
    assert posted < 100, f"501 responses took {posted} transactions"


# ------------------------------------------------------------------------------------------------------------- history


async def test_context_variables_of_calls_are_apart(bus: pgbus.Bus) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    @bus.procedure("context.count")
    async def count() -> int:
        variable.set(variable.get() + 1)
        return variable.get()

    async with running(bus):
        assert await asyncio.gather(*(bus.call("context.count") for _ in range(5))) == [1] * 5
