"""Threads that call while another one closes the event loop that they call: none of them waits forever."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from pgbus.aio.blocking import BlockingCalls
from pgbus.aio.portal import Portal, PortalClosed
from tests.support.waiting import PATIENCE


async def nothing() -> None:
    return None


async def number() -> int:
    await asyncio.sleep(0)
    return 1


def test_a_call_that_still_runs_when_its_loop_is_closed_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgbus.aio.portal.FAREWELL", 0.01)
    portal, begun = Portal(nothing), threading.Event()

    async def forever() -> None:
        begun.set()
        await asyncio.Event().wait()

    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(portal.call, forever)
        assert begun.wait(PATIENCE)
        portal.close()
        with pytest.raises(CancelledError):
            call.result(PATIENCE)


def test_a_call_that_ends_by_itself_while_its_loop_is_closed_has_its_result() -> None:
    begun, go_on = threading.Event(), asyncio.Event()

    async def let_go() -> None:
        go_on.set()

    portal = Portal(let_go)

    async def wait() -> int:
        begun.set()
        await go_on.wait()
        return await number()

    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(portal.call, wait)
        assert begun.wait(PATIENCE)
        portal.close()
        assert call.result(PATIENCE) == 1


def test_a_closed_portal_refuses_calls_and_may_be_closed_again() -> None:
    portal = Portal(nothing)
    portal.close()
    portal.close()
    with pytest.raises(PortalClosed):
        portal.call(number)


def test_calls_go_on_while_another_thread_closes() -> None:
    blocking = BlockingCalls(nothing)
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(blocking.run, number) for _ in range(400)]
        for call in calls[::20]:
            blocking.close()
            assert call.result(PATIENCE) == 1
        assert [call.result(PATIENCE) for call in calls] == [1] * 400
    blocking.close()
