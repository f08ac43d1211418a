"""Background tasks, and declarations that are refused."""

import asyncio
import re

import pytest

import pgbus
from tests.support.workers import Inbox, running

# ----------------------------------------------------------------------------------------------------------- background


async def test_background_tasks_run_from_start_to_end_of_a_worker(bus: pgbus.Bus) -> None:
    inbox: Inbox[str] = Inbox()

    async def tick(word: str) -> None:
        inbox.put(word)
        try:
            await asyncio.Event().wait()
        finally:
            inbox.put(f"end of {word}")

    async def with_client(client: pgbus.BusClient) -> None:
        assert client is bus.client
        await tick("function")

    @bus.client.on_start()
    def begin(client: pgbus.BusClient) -> None:
        client.add_background_task(tick("coroutine"))
        client.add_background_task(with_client)

    async with running(bus):
        await inbox.take(2)
        bus.client.add_background_task(lambda: inbox.put("late and plain"))
        await inbox.take(3)
    assert sorted(inbox.items) == ["coroutine", "end of coroutine", "end of function", "function", "late and plain"]


async def test_a_failed_background_function_is_restarted_a_coroutine_is_not(
    bus: pgbus.Bus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pgbus.aio.backoff.RESTART_PAUSE", 0.01)
    inbox: Inbox[str] = Inbox()

    async def fail(word: str) -> None:
        inbox.put(word)
        raise SystemExit(word)

    def function() -> None:
        inbox.put("function")
        raise ValueError("function")

    bus.client.add_background_task(fail("coroutine"))
    bus.client.add_background_task(function)
    async with running(bus):
        await inbox.until(lambda items: items.count("function") >= 3)
    assert inbox.items.count("coroutine") == 1
    assert "fail failed, and is not restarted" in caplog.text
    assert re.search(r"function failed, and restarts in \d+ ms", caplog.text)


# -------------------------------------------------------------------------------------------------------- declarations


async def test_two_schedules_of_one_name_are_refused(bus: pgbus.Bus) -> None:
    bus.client.every(hours=1, name="task")(lambda: None)
    with pytest.raises(pgbus.DuplicateScheduleName):
        bus.client.schedule("@daily", name="task")(lambda: None)


async def test_two_functions_of_one_name_are_refused_with_advice_to_name_them(bus: pgbus.Bus) -> None:
    def do_it() -> None: ...

    bus.client.every(seconds=1)(do_it)
    with pytest.raises(pgbus.DuplicateScheduleName, match=r"as in every\(\.\.\., name='do_it_2'\)"):
        bus.client.every(minutes=1)(do_it)
    bus.client.every(minutes=1, name="do_it_2")(do_it)
