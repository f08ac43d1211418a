"""How much a worker claims, and the events that it is handed without a claim."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from pgbus.telemetry import (
    Claimed,
    LeaderSlept,
    ListenerDraining,
)
from tests.conftest import Connect
from tests.support import eventually
from tests.support.orders import collect, publish
from tests.support.workers import Inbox, Watch, open_bus, running, until_idle

TRIES = 20


async def test_claims_start_small_and_grow_with_quick_handlers(database: str) -> None:
    async with open_bus(database) as bus:
        watch, inbox = Watch(bus), collect(bus, name="mail", concurrency=4)
        async with running(bus):
            pass
        await publish(bus, *range(6000))
        async with running(bus):
            await inbox.take(6000)
    sizes = [seen.events for seen in watch.of(Claimed)]
    assert sizes[0] <= 100
    assert max(sizes) > 5 * sizes[0]


async def test_a_batch_size_bounds_every_claim(database: str) -> None:
    async with open_bus(database) as bus:
        watch, inbox = Watch(bus), collect(bus, name="mail", batch_size=7)
        async with running(bus):
            await publish(bus, *range(100))
            await inbox.take(100)
    assert max(seen.events for seen in watch.of(Claimed)) <= 7


async def test_claims_smaller_than_the_concurrency_still_fill_every_slot(database: str) -> None:
    async with open_bus(database) as bus:
        started: Inbox[int] = Inbox()
        go_on = asyncio.Event()

        @bus.listener("orders.placed", name="mail", concurrency=4, batch_size=1)
        async def handle(event: dict[str, int]) -> None:
            started.put(event["n"])
            await go_on.wait()

        async with running(bus):
            await publish(bus, *range(4))
            assert sorted(await started.take(4)) == [0, 1, 2, 3]
            go_on.set()


@pytest.mark.parametrize(("ordered", "count"), [(False, 1), (False, 2), (True, 1), (True, 2)])
async def test_a_few_events_go_to_an_idle_listener_or_into_empty_lanes_without_a_claim(
    database: str, connect: Connect, ordered: bool, count: int
) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        mail, ledger = (collect(bus, name=name, ordered=ordered) for name in ("mail", "ledger"))
        watch = Watch(bus)
        async with running(bus) as worker:
            await watch.first(LeaderSlept)
            parts = worker._parts
            assert parts
            await eventually(lambda: not parts.runners.is_busy)  # with the look that every worker begins with
            # To claim is to update: from now on nobody can.
            await connection.execute(
                "CREATE FUNCTION pgbus.no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
                "CREATE TRIGGER no BEFORE UPDATE ON pgbus.deliveries FOR EACH ROW EXECUTE FUNCTION pgbus.no()"
            )
            await publish(bus, *range(count))
            for inbox in (mail, ledger):
                assert sorted(await inbox.take(count)) == list(range(count))
            await until_idle(connection)


async def test_an_event_handed_to_a_draining_worker_is_released_without_a_crash(
    database: str, connect: Connect
) -> None:
    connection, guard = await connect(database), await connect(database)
    async with open_bus(database) as bus:
        mail = collect(bus, name="mail")
        for number in range(TRIES):
            watch = Watch(bus)
            async with running(bus) as worker:
                await watch.first(LeaderSlept)
                async with guard.transaction():
                    await guard.execute("LOCK TABLE pgbus.deliveries IN SHARE MODE")
                    await publish(bus, number)
                    await eventually(lambda: connection.fetch("SELECT FROM pg_locks WHERE NOT granted"))
                    worker.request_stop()
                    await watch.first(ListenerDraining)
            assert mail.items == list(range(number))
            owed = await connection.fetch("SELECT claim_token, available_at <= now(), crashes FROM pgbus.deliveries")
            assert [tuple(row) for row in owed] in ([], [(None, True, 0)])
            async with running(bus):
                assert await mail.take(number + 1) == list(range(number + 1))
                await until_idle(connection)
            # The leader gives up a write that waits for longer than 0.1 s: then the event stays in the outbox.
            if owed:
                break
        assert owed


async def test_idle_workers_share_the_first_events_of_a_listener(database: str) -> None:
    """Published at once they are one run: who finds it locked looks again, and nobody takes what he cannot begin."""
    async with AsyncExitStack() as stack:
        names = ["one", "two", "three", "four"]
        buses = [await stack.enter_async_context(open_bus(database, process_name=name)) for name in names]
        begun: Inbox[str] = Inbox()
        go_on = asyncio.Event()
        for bus in buses:

            @bus.listener("orders.placed", name="mail", concurrency=1)
            async def handle(event: dict[str, int], name: str = bus.config.process_name) -> None:
                begun.put(name)
                await go_on.wait()

            await stack.enter_async_context(running(bus))
        await publish(buses[0], *range(24))
        assert sorted(await begun.take(4)) == sorted(names)
        go_on.set()
        await begun.take(24)
