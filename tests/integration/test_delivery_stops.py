"""Workers that stop, lose their session or their claim, and who takes over what they had."""

from __future__ import annotations

import asyncio
import functools

from pgbus.telemetry import (
    ClaimsFreed,
    ClaimsLost,
    LeaderChanged,
    LeaderSlept,
)
from tests.conftest import Connect
from tests.support import eventually
from tests.support.orders import collect, publish
from tests.support.rows import Rows
from tests.support.waiting import PATIENCE
from tests.support.workers import Inbox, Watch, open_bus, running, until_idle


async def test_stopping_finishes_the_running_handler_and_releases_the_rest(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database, grace=PATIENCE) as bus:
        started: Inbox[int] = Inbox()
        go_on = asyncio.Event()

        @bus.listener("orders.placed", name="mail", concurrency=1, batch_size=1)
        async def handle(event: dict[str, int]) -> None:
            started.put(event["n"])
            await go_on.wait()

        async def claimed(count: int) -> bool:
            return bool(await connection.fetchval("SELECT count(claim_token) = $1 FROM pgbus.deliveries", count))

        async with running(bus) as worker:
            await publish(bus, *range(5))
            await started.take(1)
            await eventually(lambda: claimed(2))
            worker.request_stop()
            await eventually(lambda: claimed(1))
            go_on.set()
            await worker.stop()
    assert started.items == [0]
    rows = await connection.fetch("SELECT * FROM pgbus.deliveries")
    assert sum(row["events"] for row in rows) == 4
    assert {(row["claim_token"], row["attempt"], row["crashes"]) for row in rows} == {(None, 1, 0)}
    assert await connection.fetchval("SELECT count(*) FROM pgbus.attempts WHERE outcome = 'done'") == 1
    assert await connection.fetchval("SELECT count(*) FROM pgbus.workers") == 0


async def test_a_handler_that_outlasts_the_grace_period_has_its_event_released(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database, grace=0) as bus:
        started: Inbox[int] = Inbox()

        @bus.listener("orders.placed", name="mail")
        async def handle(event: dict[str, int]) -> None:
            started.put(event["n"])
            await asyncio.Event().wait()

        async with running(bus):
            await publish(bus, 1)
            await started.take(1)
    [row] = await connection.fetch("SELECT * FROM pgbus.deliveries")
    assert (row["claim_token"], row["attempt"], row["crashes"]) == (None, 1, 0)
    assert await connection.fetchval("SELECT count(*) FROM pgbus.attempts") == 0


async def test_a_second_request_to_stop_does_not_wait_for_handlers(database: str) -> None:
    async with open_bus(database, grace=600) as bus:
        started: Inbox[int] = Inbox()

        @bus.listener("orders.placed", name="mail")
        async def handle(event: dict[str, int]) -> None:
            started.put(event["n"])
            await asyncio.Event().wait()

        async with running(bus) as worker:
            await publish(bus, 1)
            await started.take(1)
            worker.request_stop()
            worker.request_stop()
            async with asyncio.timeout(PATIENCE):
                await worker.stop()


async def test_another_worker_leads_as_soon_as_the_leader_has_stopped(database: str) -> None:
    async with open_bus(database) as one, open_bus(database) as two:
        inbox = collect(two, name="mail")
        watch = Watch(two)
        async with running(two, only=[]) as follower:
            await watch.first(LeaderChanged)
            async with running(one):
                pass
            assert follower.leads
        async with running(one) as leader:
            await eventually(lambda: leader.leads)
            async with running(two) as follower:
                assert not follower.leads
                await leader.stop()
                await watch.first(LeaderChanged, after=2)
                await publish(two, 1)
                assert await inbox.take(1) == [1]


async def test_the_claims_of_a_worker_whose_session_has_ended_are_freed_at_once(
    database: str, connect: Connect
) -> None:
    connection, theirs = await connect(database), await connect(database)
    rows = Rows(connection)
    async with open_bus(database) as bus:
        watch, inbox = Watch(bus), collect(bus, name="mail")
        async with running(bus, only=["mail"]):
            pass
        listener_id = await connection.fetchval("SELECT id FROM pgbus.listeners")
        worker_id = await Rows(theirs).worker("doomed", "mail")
        await rows.event(5, payload={"n": 5})
        await rows.delivery(listener_id, 5, worker_id=worker_id)
        async with running(bus):
            await watch.first(LeaderSlept)
            assert inbox.items == []
            await theirs.close()
            assert await inbox.take(1) == [5]
            assert (await watch.first(ClaimsFreed)).claims == 1
            await until_idle(connection)


async def test_leases_are_extended_while_a_handler_runs(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database, lease=6) as bus:
        watch = Watch(bus)
        started: Inbox[int] = Inbox()
        go_on = asyncio.Event()

        @bus.listener("orders.placed", name="mail")
        async def handle(event: dict[str, int]) -> None:
            started.put(event["n"])
            await go_on.wait()

        async with running(bus):
            await publish(bus, 1)
            await started.take(1)
            for _ in range(2):
                expires_at = await connection.fetchval("SELECT lease_expires_at FROM pgbus.deliveries")
                extended = "SELECT lease_expires_at > $1 FROM pgbus.deliveries"
                await eventually(functools.partial(connection.fetchval, extended, expires_at))
            go_on.set()
            await until_idle(connection)
    assert started.items == [1]
    assert watch.of(ClaimsFreed) == []
    assert watch.of(ClaimsLost) == []


async def test_a_worker_that_has_lost_its_claim_cannot_settle_it(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        watch = Watch(bus)
        attempts: Inbox[asyncio.Event] = Inbox()

        @bus.listener("orders.placed", name="mail")
        async def handle(event: dict[str, int]) -> None:
            go_on = asyncio.Event()
            attempts.put(go_on)
            await go_on.wait()

        async with running(bus):
            await publish(bus, 1)
            [first] = await attempts.take(1)
            await connection.execute("UPDATE pgbus.deliveries SET lease_expires_at = now()")
            await watch.first(ClaimsFreed)
            _, second = await attempts.take(2)
            first.set()
            await watch.first(ClaimsLost)
            assert await connection.fetchval("SELECT count(*) FROM pgbus.attempts") == 0
            assert await connection.fetchval("SELECT claim_token IS NOT NULL FROM pgbus.deliveries")
            second.set()
            await until_idle(connection)
    assert await connection.fetchval("SELECT count(*) FROM pgbus.attempts") == 1


async def test_a_connection_that_is_killed_while_claiming_does_not_end_the_delivery(
    database: str, connect: Connect
) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        inbox = collect(bus, name="mail")
        async with running(bus):
            await publish(bus, 1)
            await inbox.take(1)
            await until_idle(connection)
            # The pooled connections of claims, not the session.
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE query LIKE 'WITH active%' OR query LIKE 'WITH settled%'"
            )
            await publish(bus, 2)
            assert await inbox.take(2) == [1, 2]
