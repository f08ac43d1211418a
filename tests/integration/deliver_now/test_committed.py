"""`deliver_now` on what a test committed: by a real worker."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

import pgbus
from pgbus.testing import deliver_now, deliver_now_sync
from tests.support.rehearsal import summary
from tests.support.workers import open_bus


async def test_committed_events_are_delivered_by_a_real_worker_until_nothing_is_left(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    @bus.listener("n", name="down")
    async def down(number: int) -> None:
        if number:
            await bus.publish(number - 1, topic="n")

    @bus.listener("n", name="writes", transactional=True)
    async def writes(number: int, own: asyncpg.Connection) -> None:
        await own.execute("INSERT INTO notes VALUES ($1)", str(number))

    await bus.publish(2, topic="n")
    attempts = await deliver_now(bus)
    assert sorted((one.listener_name, one.event.payload, one.outcome) for one in attempts) == [
        (name, number, "done") for name in ("down", "writes") for number in (0, 1, 2)
    ]
    assert await connection.fetchval("SELECT count(*) FROM notes") == 3
    assert await connection.fetchval("SELECT count(*) FROM pgbus.workers") == 0
    assert await deliver_now(bus) == []
    await bus.publish(0, topic="n")
    assert len(await deliver_now(bus)) == 2


async def test_the_first_error_of_a_worker_s_handler_comes_through(bus: pgbus.Bus) -> None:
    @bus.listener("n", name="fails")
    def fails(number: int) -> None:
        raise LookupError(number)

    await bus.publish(7, topic="n")
    with pytest.raises(LookupError, match="7"):
        await deliver_now(bus)


async def test_an_event_that_cannot_be_decoded_raises_too(bus: pgbus.Bus) -> None:
    @bus.listener("n", name="unfit", transactional=True)
    async def unfit(number: dict[str, int], own: asyncpg.Connection) -> None:
        raise AssertionError("it cannot be called")

    await bus.publish(7, topic="n")
    with pytest.raises(pgbus.UnhandledEventError):
        await deliver_now(bus)


async def test_a_worker_s_failures_are_collected_and_retried_without_delay(bus: pgbus.Bus) -> None:
    @bus.listener("n", name="third time", retry=5)
    async def third_time(number: int, context: pgbus.Context) -> None:
        if context.attempt < 3:
            raise pgbus.Retry("not yet", after=3600) if context.attempt == 2 else ValueError("first")

    @bus.listener("n", name="never", retry=2)
    def never(number: int) -> None:
        raise ValueError("never")

    await bus.publish(1, topic="n")
    attempts = await deliver_now(bus, raise_errors=False)
    assert sorted(summary(attempts)) == [
        ("never", "n", 1, "retry"), ("never", "n", 2, "dead"), ("third time", "n", 1, "retry"),
        ("third time", "n", 2, "retry"), ("third time", "n", 3, "done"),
    ]  # fmt: skip
    assert {one.error for one in attempts} == {None, "ValueError: first", "not yet", "ValueError: never"}


async def test_a_handler_that_runs_past_its_own_timeout_fails_the_test(bus: pgbus.Bus) -> None:
    @bus.listener("n", name="slow", timeout=0.01)
    async def slow(number: int) -> None:
        await asyncio.Event().wait()

    await bus.publish(1, topic="n")
    with pytest.raises(AssertionError, match=r"slow failed on n: HandlerTimeoutError: .* its timeout of 0\.01 seconds"):
        await deliver_now(bus)


async def test_no_tasks_run_while_events_are_delivered(bus: pgbus.Bus) -> None:
    @bus.client.every(seconds=1, also_run_immediately=True)
    async def tick() -> None:
        raise AssertionError("it is none of the listeners")

    @bus.listener("n", name="hears")
    async def hears(number: int) -> None:
        pass

    await bus.publish(1, topic="n")
    assert len(await deliver_now(bus)) == 1


async def test_a_hanging_handler_is_given_up_after_the_timeout(bus: pgbus.Bus) -> None:
    @bus.listener("n", name="hangs")
    async def hangs(number: int) -> None:
        await asyncio.Event().wait()

    await bus.publish(1, topic="n")
    with pytest.raises(TimeoutError, match=r"after 0\.5 seconds"):
        await deliver_now(bus, timeout=0.5)


async def test_the_error_of_a_worker_that_cannot_start_comes_through(empty_database: str) -> None:
    async with open_bus(empty_database) as bus:
        with pytest.raises((pgbus.SchemaVersionError, asyncpg.UndefinedTableError)):
            await deliver_now(bus)


def test_blocking_tests_deliver_what_they_committed(sync_bus: pgbus.Bus) -> None:
    heard: list[int] = []

    @sync_bus.listener("n", name="hears")
    def hears(number: int) -> None:
        heard.append(number)

    sync_bus.publish_sync(1, topic="n")
    assert summary(deliver_now_sync(sync_bus)) == [("hears", "n", 1, "done")]
    assert heard == [1]


async def test_a_procedure_that_plays_dead_is_to_its_caller_a_lost_worker(bus: pgbus.Bus) -> None:
    @bus.procedure("stock.take")
    async def take() -> None:
        raise pgbus.SuddenDeathException

    @bus.listener("n", name="calls")
    async def calls(number: int) -> None:
        await bus.call("stock.take")

    await bus.publish(1, topic="n")
    with pytest.raises(pgbus.WorkerLost, match=r"stock\.take"):
        await deliver_now(bus)
