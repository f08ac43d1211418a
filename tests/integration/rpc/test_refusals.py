"""What the database refuses of one call fails that call alone, and a lost link fails none."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

import pgbus
from pgbus.rpc.answerer import Answerer
from pgbus.telemetry import PartFailed
from tests.conftest import Connect
from tests.support.workers import Watch, open_bus, running


async def test_arguments_that_the_database_refuses_fail_their_call_alone(
    bus: pgbus.Bus, database: str, connect: Connect
) -> None:
    connection = await connect(database)
    await connection.execute(
        "ALTER TABLE pgbus.rpc_requests ADD CONSTRAINT odd CHECK (CAST(arguments AS text) NOT LIKE '%13%')"
    )

    @bus.procedure("math.double")
    async def double(n: int) -> int:
        return 2 * n

    async with running(bus):
        await bus.call("math.double", {"n": 0})  # connected: the others go in one batch
        calls = [bus.call("math.double", {"n": n}) for n in range(10, 20)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [2 * n for n in range(10, 20) if n != 13] == [one for one in answers if isinstance(one, int)]
        with pytest.raises(pgbus.InvalidArguments, match=r"refused the arguments of math\.double.*odd"):
            await bus.call("math.double", {"n": 13})


async def test_a_result_that_the_database_refuses_fails_its_call_alone(
    bus: pgbus.Bus, database: str, connect: Connect
) -> None:
    connection = await connect(database)
    await connection.execute(
        "ALTER TABLE pgbus.rpc_responses ADD CONSTRAINT odd CHECK (CAST(result AS text) NOT LIKE '26')"
    )

    @bus.procedure("math.double")
    async def double(n: int) -> int:
        return 2 * n

    async with running(bus):
        calls = [bus.call("math.double", {"n": n}) for n in range(10, 20)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [2 * n for n in range(10, 20) if n != 13] == [one for one in answers if isinstance(one, int)]
        assert isinstance(answers[3], pgbus.InvalidResult)
        assert "the database refused the result" in str(answers[3])
        assert await bus.call("math.double", {"n": 1}) == 2


async def test_a_link_lost_between_answers_written_one_by_one_fails_no_call(
    bus: pgbus.Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Answerer._write
    sizes: list[int] = []

    async def write_or_fail(answerer: Answerer, batch: list[Any], **options: Any) -> Any:
        sizes.append(len(batch))
        if len(batch) > 1 and len(sizes) < 3:
            raise asyncpg.DataError("one of them is refused")
        if sizes[-3:-1] == [3, 1] and len(batch) == 1:
            raise ConnectionResetError
        return await write(answerer, batch, **options)

    entered = asyncio.Event()
    leave = asyncio.Event()
    busy = 0

    @bus.procedure("math.double")
    async def double(n: int) -> int:
        nonlocal busy
        busy += 1
        if busy == 3:
            entered.set()
        await leave.wait()
        return 2 * n

    async with running(bus):
        calls = asyncio.gather(*(bus.call("math.double", {"n": n}) for n in range(3)))
        await entered.wait()
        monkeypatch.setattr(Answerer, "_write", write_or_fail)
        leave.set()  # all three end in one turn of the loop
        assert await calls == [0, 2, 4]
    assert sizes == [3, 1, 1, 2]


async def test_a_worker_whose_answers_fail_while_it_stops_comes_to_its_end(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise AssertionError("a fault of code")

    entered, leave = asyncio.Event(), asyncio.Event()
    async with open_bus(database, grace=1) as bus:
        watch = Watch(bus)

        @bus.procedure("math.double")
        async def double(n: int) -> int:
            entered.set()
            await leave.wait()
            return 2 * n

        async with running(bus) as worker:
            call = asyncio.create_task(bus.call("math.double", {"n": 1}))
            await entered.wait()
            monkeypatch.setattr(Answerer, "_write", fail)
            worker.request_stop()
            leave.set()
            assert (await watch.first(PartFailed)).part == "calls"
        with pytest.raises(pgbus.WorkerLost):
            await call
