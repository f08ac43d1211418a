"""Calls that nobody serves, that are too late or cancelled, and when each of them ends."""

import asyncio

import pytest

import pgbus
from pgbus.telemetry import CallEnded, CallStarted
from tests.conftest import Connect
from tests.support import eventually
from tests.support.tables import has_state, state_of
from tests.support.waiting import PATIENCE, widening
from tests.support.workers import Inbox, Watch, open_bus, running


async def test_a_call_that_nobody_serves_fails_at_once(bus: pgbus.Bus, database: str, connect: Connect) -> None:
    with pytest.raises(pgbus.NoWorkerAvailable, match="no live worker serves it"):
        async with asyncio.timeout(PATIENCE):  # of which its own time is far beyond
            await bus.call("auth.check_password", {}, timeout=100 * PATIENCE)
    assert await state_of(await connect(database), "auth.check_password") == []


async def test_a_call_that_is_told_to_wait_is_served_by_who_comes(
    bus: pgbus.Bus, database: str, connect: Connect
) -> None:
    @bus.procedure("maths.double")
    async def double(n: int) -> int:
        return 2 * n

    connection = await connect(database)
    call = asyncio.create_task(bus.call("maths.double", {"n": 4}, timeout=60, wait=True))
    await eventually(lambda: has_state(connection, "maths.double", "waiting"))
    async with running(bus):
        assert await call == 8


async def test_a_worker_that_stopped_serves_no_more(bus: pgbus.Bus) -> None:
    @bus.procedure("a.one")
    async def one() -> int:
        return 1

    async with running(bus):
        assert await bus.call("a.one") == 1
    # The caller may believe in it for a moment yet, but finds out long before the timeout.
    with pytest.raises(pgbus.NoWorkerAvailable):
        async with asyncio.timeout(PATIENCE):
            await bus.call("a.one", timeout=100 * PATIENCE)


async def test_a_late_call_is_never_executed(bus: pgbus.Bus, database: str, connect: Connect) -> None:
    ran: list[int] = []
    gate = asyncio.Event()
    watch = Watch(bus)

    @bus.procedure("slow.wait", concurrency=1)
    async def wait(n: int) -> None:
        ran.append(n)
        await gate.wait()

    connection = await connect(database)
    async with running(bus):
        first = asyncio.create_task(bus.call("slow.wait", {"n": 1}, timeout=60))
        await watch.first(CallStarted)
        for timeout in widening(0.2):
            with pytest.raises(pgbus.CallTimeout, match=f"no response within {timeout} seconds") as caught:
                await bus.call("slow.wait", {"n": 2}, timeout=timeout)
            assert isinstance(caught.value, TimeoutError)
            if len(await state_of(connection, "slow.wait")) > 1:
                break  # it got there, as may one that was on its way when its time was over
        await eventually(lambda: has_state(connection, "slow.wait", "expired"))
        gate.set()
        await first
        await bus.call("slow.wait", {"n": 3})
    assert ran == [1, 3]


async def test_a_procedure_that_runs_at_its_deadline_is_cancelled(
    bus: pgbus.Bus, database: str, connect: Connect
) -> None:
    watch = Watch(bus)

    @bus.procedure("slow.wait")
    async def wait() -> None:
        await asyncio.Event().wait()

    async with running(bus):
        for timeout in widening(0.2):
            with pytest.raises(pgbus.CallTimeout):
                await bus.call("slow.wait", timeout=timeout)
            if watch.of(CallStarted):
                break
        assert (await watch.first(CallEnded)).outcome == "expired"
        connection = await connect(database)
        await eventually(lambda: has_state(connection, "slow.wait", "expired"))


async def test_the_timeout_is_the_calls_else_the_procedures_else_the_setting(database: str) -> None:
    gate = asyncio.Event()
    async with open_bus(database, rpc_timeout=0.3) as bus, open_bus(database) as server:

        @server.procedure("slow.patient", timeout=60)
        async def patient() -> str:
            await asyncio.wait([asyncio.create_task(gate.wait())])
            return "patient"

        @server.procedure("slow.plain")
        async def plain() -> None:
            await asyncio.Event().wait()

        async with running(server):
            call = asyncio.create_task(bus.call("slow.patient"))
            with pytest.raises(pgbus.CallTimeout, match=r"within 0\.3 seconds"):
                await bus.call("slow.plain")
            with pytest.raises(pgbus.CallTimeout, match=r"within 0\.1 seconds"):
                await bus.call("slow.plain", timeout=0.1)
            gate.set()
            assert await call == "patient"


async def test_cancelling_the_caller_takes_a_waiting_call_back(bus: pgbus.Bus, database: str, connect: Connect) -> None:
    ran: list[int] = []
    gate = asyncio.Event()
    watch = Watch(bus)

    @bus.procedure("slow.wait", concurrency=1, timeout=60)
    async def wait(n: int) -> None:
        ran.append(n)
        await gate.wait()

    connection = await connect(database)
    async with running(bus):
        first = asyncio.create_task(bus.call("slow.wait", {"n": 1}))
        await watch.first(CallStarted)
        second = asyncio.create_task(bus.call("slow.wait", {"n": 2}))
        await eventually(lambda: has_state(connection, "slow.wait", "waiting"))
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await eventually(lambda: has_state(connection, "slow.wait", "cancelled"))
        gate.set()
        await first
    assert ran == [1]


async def test_cancelling_the_caller_cancels_the_running_procedure(bus: pgbus.Bus) -> None:
    watch = Watch(bus)
    ended: Inbox[str] = Inbox()

    @bus.procedure("slow.wait", timeout=60)
    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.put("cancelled")
            raise

    async with running(bus):
        call = asyncio.create_task(bus.call("slow.wait"))
        await watch.first(CallStarted)
        call.cancel()
        assert await ended.take(1) == ["cancelled"]
        assert (await watch.first(CallEnded)).outcome == "cancelled"


async def test_who_listens_to_cancellations_does_not_learn_the_ids_of_calls(
    bus: pgbus.Bus, database: str, connect: Connect
) -> None:
    """By its id, any caller may read the response of a call."""
    watch = Watch(bus)
    heard: Inbox[str] = Inbox()
    listening = await connect(database)
    await listening.add_listener("pgbus_calls", lambda *arguments: heard.put(arguments[-1]))

    @bus.procedure("slow.wait", timeout=60)
    async def wait() -> None:
        await asyncio.Event().wait()

    async with running(bus):
        call = asyncio.create_task(bus.call("slow.wait"))
        call_id = (await watch.first(CallStarted)).call_id
        call.cancel()
        payloads = await heard.until(lambda payloads: any("cancel" in one for one in payloads))
        assert str(call_id) not in "".join(payloads)
        assert (await watch.first(CallEnded)).outcome == "cancelled"


async def test_a_call_that_is_cancelled_before_it_is_sent_is_never_sent(
    bus: pgbus.Bus, database: str, connect: Connect
) -> None:
    @bus.procedure("maths.double")
    async def double(n: int) -> int:
        return 2 * n

    async with running(bus):
        await bus.call("maths.double", {"n": 1})
        call = asyncio.create_task(bus.call("maths.double", {"n": 2}))
        asyncio.get_running_loop().call_soon(call.cancel)
        with pytest.raises(asyncio.CancelledError):
            await call
        await bus.call("maths.double", {"n": 3})
        assert await state_of(await connect(database), "maths.double") == ["answered", "answered"]


async def test_closing_the_bus_ends_calls_under_way(database: str) -> None:
    async with open_bus(database) as server, open_bus(database) as bus:
        watch = Watch(server)

        @server.procedure("slow.wait", timeout=60)
        async def wait() -> None:
            await asyncio.Event().wait()

        async with running(server) as worker:
            call = asyncio.create_task(bus.call("slow.wait"))
            await watch.first(CallStarted)
            await bus.close()
            with pytest.raises(pgbus.CallCancelled, match="closed"):
                await call
            worker.request_stop()
            worker.request_stop()
