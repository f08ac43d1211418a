"""The four hooks of a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

import pgbus
from tests.support.threads import in_thread
from tests.support.waiting import widening
from tests.support.workers import Inbox, running


@pytest.fixture
async def served(bus: pgbus.Bus) -> AsyncIterator[pgbus.Bus]:
    @bus.procedure("math.half")
    async def half(number: int) -> float:
        return number / 2

    @bus.procedure("math.fail")
    def fail() -> None:
        raise ValueError("no")

    @bus.procedure("math.wrong")
    async def wrong() -> int:
        return "text"  # type: ignore[return-value]

    async with running(bus):
        yield bus


Exchange = tuple[str, pgbus.RpcMessage, pgbus.ResultMessage | None]


def note_exchanges(bus: pgbus.Bus) -> list[Exchange]:
    noted: list[Exchange] = []
    client = bus.client
    client.before_rpc_call(lambda rpc_message: noted.append(("before call", rpc_message, None)))
    client.before_rpc_execution(lambda rpc_message: noted.append(("before execution", rpc_message, None)))
    client.after_rpc_execution(
        lambda rpc_message, result_message: noted.append(("after execution", rpc_message, result_message))
    )
    client.after_rpc_call(lambda rpc_message, result_message: noted.append(("after call", rpc_message, result_message)))
    return noted


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_call_passes_four_hooks_which_know_it_by_one_id(served: pgbus.Bus, blocking: bool) -> None:
    noted = note_exchanges(served)
    if blocking:
        assert await in_thread(lambda: served.math.half(number=4)) == 2.0
    else:
        assert await served.math.half.call_async(number=4) == 2.0
    assert [name for name, _, _ in noted] == ["before call", "before execution", "after execution", "after call"]
    assert len({message.id for _, message, _ in noted}) == 1
    for _, message, result in noted:
        assert (message.api_name, message.procedure_name, message.kwargs) == ("math", "half", {"number": 4})
        if result:
            assert (result.result, result.error, result.trace, result.rpc_message_id) == (2.0, False, None, message.id)


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize(
    ("procedure", "error", "said"),
    [("math.fail", pgbus.RemoteError, "ValueError"), ("math.wrong", pgbus.InvalidResult, "InvalidResult")],
)
async def test_hooks_after_a_call_are_told_of_its_failure(
    served: pgbus.Bus, blocking: bool, procedure: str, error: type[Exception], said: str
) -> None:
    noted = note_exchanges(served)
    with pytest.raises(error):
        await (in_thread(lambda: served.call_sync(procedure)) if blocking else served.call(procedure))
    results = [result for _, _, result in noted if result]
    assert [result.error for result in results] == [True, True]
    assert said in results[0].result
    assert said in (results[0].trace or "")
    assert error.__name__ in results[1].result


async def test_arguments_and_results_that_hooks_change_travel(
    served: pgbus.Bus,
) -> None:
    client = served.client

    @client.before_rpc_call()
    def before(rpc_message: pgbus.RpcMessage) -> None:
        rpc_message.kwargs["number"] += 6

    @client.before_rpc_execution()
    async def before_execution(rpc_message: pgbus.RpcMessage) -> None:
        rpc_message.kwargs = {"number": rpc_message.kwargs["number"] * 2}

    @client.after_rpc_execution()
    async def after_execution(result_message: pgbus.ResultMessage) -> None:
        result_message.result += 0.5

    @client.after_rpc_call()
    async def after(result_message: pgbus.ResultMessage) -> None:
        result_message.result = str(result_message.result)

    assert await served.call("math.half", {"number": 4}) == "10.5"
    assert await in_thread(lambda: served.call_sync("math.half", {"number": 4})) == "10.5"


async def test_what_hooks_raise_before_a_call_comes_through_and_nothing_is_called(
    served: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    @served.client.before_rpc_call()
    def refuse() -> None:
        raise PermissionError("not you")

    with pytest.raises(PermissionError):
        await served.call("math.half", {"number": 4})
    with pytest.raises(PermissionError):
        await in_thread(lambda: served.call_sync("math.half", {"number": 4}))
    assert await connection.fetchval("SELECT count(*) FROM pgbus.rpc_calls") == 0


@pytest.mark.parametrize("moment", ["before_rpc_execution", "after_rpc_execution"])
async def test_what_hooks_raise_around_an_execution_is_the_answer(served: pgbus.Bus, moment: str) -> None:
    async def fail() -> None:
        raise LookupError("the hook's")

    getattr(served.client, moment)(fail)
    with pytest.raises(pgbus.RemoteError, match="LookupError: the hook's"):
        await served.call("math.half", {"number": 4})


async def test_arguments_that_hooks_spoil_are_refused_like_a_callers(served: pgbus.Bus) -> None:
    served.client.before_rpc_execution(lambda rpc_message: rpc_message.kwargs.update(number="many"))
    with pytest.raises(pgbus.InvalidArguments):
        await served.call("math.half", {"number": 4})


async def test_hooks_are_told_of_a_call_whose_time_was_up(bus: pgbus.Bus) -> None:
    results: Inbox[pgbus.ResultMessage] = Inbox()
    started: list[str] = []

    @bus.procedure("slow.wait")
    async def wait() -> None:
        started.append("started")
        await asyncio.Event().wait()

    @bus.client.after_rpc_execution()
    async def after(result_message: pgbus.ResultMessage) -> None:
        results.put(result_message)

    async with running(bus):
        for timeout in widening(0.3):
            with pytest.raises(pgbus.CallTimeout):
                await bus.call("slow.wait", timeout=timeout)
            if started:
                break
        result, *_ = await results.take(1)
    assert result.error
    assert "CancelledError" in result.result
