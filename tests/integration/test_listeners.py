"""Listeners as they are registered, changed, started somewhere in the log, paused and resumed."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import pgbus
from pgbus.admin import Admin
from pgbus.bus import make_worker
from pgbus.database.connections import create_pool
from pgbus.database.store import Store
from pgbus.leader.mover import BATCH
from pgbus.listeners.registration import register_listeners
from pgbus.telemetry import LeaderSlept, Sequenced
from pgbus.worker import session_loop
from tests.conftest import Connect
from tests.support import eventually
from tests.support.rows import Rows
from tests.support.workers import Inbox, Watch, open_bus, running, until_idle


async def publish(bus: pgbus.Bus, *numbers: int, topic: str = "a.b") -> None:
    await bus.publish_many([{"n": number} for number in numbers], topic=topic)


def collect(bus: pgbus.Bus, *topics: str, name: str = "mail", **options: Any) -> Inbox[int]:
    inbox: Inbox[int] = Inbox()

    @bus.listener(*(topics or ("a.b",)), name=name, **options)
    async def handle(event: dict[str, int]) -> None:
        inbox.put(event["n"])

    return inbox


async def log(database: str, *numbers: int) -> None:
    """Publish events, and have them in the log before any listener is registered."""
    async with open_bus(database) as bus:
        watch = Watch(bus)
        await publish(bus, *numbers)
        async with running(bus):
            await watch.until(lambda _: sum(seen.events for seen in watch.of(Sequenced)) == len(numbers))


async def test_two_listeners_of_one_name_in_one_process_are_refused(database: str) -> None:
    async with open_bus(database) as bus:
        collect(bus, name="mail")
        with pytest.raises(pgbus.DuplicateListenerName, match="mail"):
            collect(bus, name="mail")
        with pytest.raises(pgbus.ConfigurationError):
            collect(bus, name="mail")


async def test_a_new_listener_starts_with_the_events_logged_from_now_on(database: str) -> None:
    await log(database, 1, 2, 3)
    async with open_bus(database) as bus:
        inbox = collect(bus)
        async with running(bus):
            await publish(bus, 4)
            assert await inbox.take(1) == [4]


async def test_a_new_listener_may_start_at_the_beginning_and_then_goes_on_live(database: str, connect: Connect) -> None:
    connection = await connect(database)
    await log(database, 1, 2, 3)
    async with open_bus(database) as bus:
        inbox = collect(bus, start="beginning")
        async with running(bus):
            await inbox.take(3)
            await publish(bus, 4)
            assert sorted(await inbox.take(4)) == [1, 2, 3, 4]
            await until_idle(connection)
    assert await connection.fetchval("SELECT cursor FROM pgbus.listeners") is None


async def test_a_listener_from_the_beginning_reads_a_long_log_in_stretches_once(database: str) -> None:
    numbers = range(2 * BATCH + 50)
    await log(database, *numbers)
    async with open_bus(database) as bus:
        inbox = collect(bus, start="beginning")
        watch = Watch(bus)
        async with running(bus):
            await watch.first(LeaderSlept)
            await publish(bus, -1)
            await inbox.take(len(numbers) + 1)
    assert sorted(inbox.items) == [-1, *numbers]


async def test_an_ordered_listener_from_the_beginning_orders_old_before_new(database: str) -> None:
    async with open_bus(database) as publisher:
        for number in range(20):
            await publisher.publish({"n": number}, topic="a.b", key="k")
        async with open_bus(database) as bus:
            inbox = collect(bus, start="beginning", ordered=True)
            async with running(bus):
                for number in range(20, 40):
                    await publisher.publish({"n": number}, topic="a.b", key="k")
                assert await inbox.take(40) == list(range(40))


async def test_a_new_listener_may_start_at_a_position(database: str, connect: Connect) -> None:
    await log(database, 1, 2, 3)
    connection = await connect(database)
    position = await connection.fetchval("SELECT position FROM pgbus.events WHERE payload = '{\"n\": 2}'")
    async with open_bus(database) as bus:
        inbox = collect(bus, start=position)
        async with running(bus):
            assert sorted(await inbox.take(2)) == [2, 3]
            await until_idle(connection)
    assert sorted(inbox.items) == [2, 3]


async def test_a_new_listener_may_start_at_an_instant(database: str, connect: Connect) -> None:
    connection = await connect(database)
    rows = Rows(connection)
    now = datetime.now(UTC)
    for position, age in ((1, 3), (2, 2), (3, 1)):
        await rows.event(position, "a.b", {"n": position}, logged_at=now - timedelta(hours=age))
    async with open_bus(database) as bus:
        inbox = collect(bus, start=now - timedelta(hours=2, minutes=30))
        async with running(bus):
            assert sorted(await inbox.take(2)) == [2, 3]
            await until_idle(connection)
    assert sorted(inbox.items) == [2, 3]


async def test_an_instant_after_the_last_event_begins_with_the_next_one(database: str, connect: Connect) -> None:
    await log(database, 1)
    async with open_bus(database) as bus:
        inbox = collect(bus, start=datetime.now(UTC) + timedelta(hours=1))
        async with running(bus):
            await publish(bus, 2)
            assert await inbox.take(1) == [2]


async def test_the_start_counts_only_once(database: str, connect: Connect) -> None:
    connection = await connect(database)
    await log(database, 1)
    for _ in range(2):
        async with open_bus(database) as bus:
            inbox = collect(bus, start="beginning")
            async with running(bus):
                await until_idle(connection)
                await eventually(lambda: connection.fetchval("SELECT cursor IS NULL FROM pgbus.listeners"))
                await until_idle(connection)
    assert inbox.items == []
    assert await connection.fetchval("SELECT count(*) FROM pgbus.attempts") == 1


async def test_changed_subscriptions_are_updated_and_logged(
    database: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pgbus")
    connection = await connect(database)
    async with open_bus(database) as old:
        collect(old, "a.b", "a.c", name="mail")
        async with running(old):
            pass
    assert "listener mail is new; it listens to a.b, a.c" in caplog.messages
    async with open_bus(database) as new:
        inbox = collect(new, "a.b", "x.*", name="mail")
        async with running(new):
            await publish(new, 1, topic="a.c")
            await publish(new, 2, topic="x.y")
            await publish(new, 3, topic="a.b")
            assert sorted(await inbox.take(2)) == [2, 3]
            await until_idle(connection)
    assert "listener mail now hears x.*" in caplog.messages
    assert "listener mail no longer hears a.c" in caplog.messages
    assert sorted(inbox.items) == [2, 3]
    patterns = await connection.fetch("SELECT pattern, regex FROM pgbus.subscriptions ORDER BY pattern")
    assert [row["pattern"] for row in patterns] == ["a.b", "x.*"]
    assert [row["regex"] is None for row in patterns] == [True, False]


async def test_changed_options_are_updated_and_logged(
    database: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pgbus")
    connection = await connect(database)
    for concurrency in (3, 3, 4):
        async with open_bus(database) as bus:
            collect(bus, concurrency=concurrency)
            async with running(bus):
                pass
    options = json.loads(await connection.fetchval("SELECT options FROM pgbus.listeners"))
    assert options["concurrency"] == 4
    assert len([message for message in caplog.messages if "has new options" in message]) == 1


async def test_a_paused_listener_gets_its_events_only_after_it_is_resumed(database: str, connect: Connect) -> None:
    admin = Admin(await connect(database))
    async with open_bus(database) as one, open_bus(database) as two:
        watch = Watch(one, two)  # either of them may lead
        paused = [collect(bus, name="paused") for bus in (one, two)]
        active = collect(one, name="active")
        async with running(one), running(two):
            await publish(one, 0)
            await active.take(1)
            await eventually(lambda: paused[0].items + paused[1].items == [0])
            await admin.listeners.pause("paused")
            await publish(one, 1, 2, 3)
            assert sorted(await active.take(4)) == [0, 1, 2, 3]
            slept = len(watch.of(LeaderSlept))
            await publish(one, 4)
            await active.take(5)
            await watch.first(LeaderSlept, after=slept)
            assert paused[0].items + paused[1].items == [0]
            await admin.listeners.resume("paused")
            await eventually(lambda: sorted(paused[0].items + paused[1].items) == [0, 1, 2, 3, 4])


async def test_a_pause_outlives_a_restart(database: str, connect: Connect) -> None:
    connection = await connect(database)
    admin = Admin(await connect(database))
    async with open_bus(database) as bus:
        inbox = collect(bus, name="paused")
        other = collect(bus, name="active")
        async with running(bus):
            await admin.listeners.pause("paused")
        async with running(bus):
            await publish(bus, 1)
            await other.take(1)
            await eventually(lambda: connection.fetchval("SELECT count(*) = 1 FROM pgbus.deliveries"))
            assert inbox.items == []
            await admin.listeners.resume("paused")
            assert await inbox.take(1) == [1]


@pytest.mark.parametrize("to", ["beginning", "now"])
async def test_a_reset_listener_hears_the_log_again_or_skips_what_waits(
    database: str, connect: Connect, to: Any
) -> None:
    connection = await connect(database)
    admin = Admin(await connect(database))
    async with open_bus(database) as bus:
        inbox = collect(bus)
        async with running(bus):
            await publish(bus, 1, 2)
            await inbox.take(2)
            await until_idle(connection)
            await admin.listeners.pause("mail")
            await publish(bus, 3)
            await eventually(lambda: connection.fetchval("SELECT count(*) = 1 FROM pgbus.deliveries"))
            await admin.listeners.reset("mail", to=to)
            await admin.listeners.resume("mail")
            await publish(bus, 4)
            expected = [1, 2, 1, 2, 3, 4] if to == "beginning" else [1, 2, 4]
            assert sorted(await inbox.until(lambda items: 4 in items and len(items) >= len(expected))) == sorted(
                expected
            )


async def test_a_listener_reset_to_now_before_the_first_event_hears_the_first_event(
    database: str, connect: Connect
) -> None:
    async with open_bus(database) as bus:
        inbox = collect(bus)
        async with running(bus):
            pass
        await Admin(await connect(database)).listeners.reset("mail", to="now")
        await publish(bus, 1)
        async with running(bus):
            assert await inbox.take(1) == [1]


async def test_events_are_kept_for_a_listener_that_nobody_runs(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        inbox = collect(bus, name="absent")
        other = collect(bus, name="present")
        async with running(bus):
            pass
        async with running(bus, skip=["absent"]):
            await publish(bus, *range(10))
            await other.take(10)
        assert inbox.items == []
        async with running(bus, only=["absent"]):
            assert sorted(await inbox.take(10)) == list(range(10))
            await until_idle(connection)


async def test_unknown_names_to_run_or_skip_are_refused(database: str) -> None:
    async with open_bus(database) as bus:
        collect(bus, name="mail")
        with pytest.raises(pgbus.ConfigurationError, match="declared are: mail"):
            async with running(bus, only=["mial"]):
                pass


async def test_a_listener_and_its_worker_are_listed_while_they_run(database: str, connect: Connect) -> None:
    admin = Admin(await connect(database))
    async with open_bus(database, service_name="shop", process_name="shop-1") as bus:
        collect(bus, name="mail")
        async with running(bus) as worker:
            await eventually(lambda: worker.leads)
            [listed] = await admin.workers()
            assert (listed.name, listed.service, listed.listeners, listed.live) == ("shop-1", "shop", ("mail",), True)
            [listener] = await admin.listeners.list()
            assert (listener.listener_name, listener.service, listener.patterns) == ("mail", "shop", ("a.b",))
        assert await admin.workers() == ()


async def test_a_removed_listener_that_is_declared_anew_is_a_new_one(database: str, connect: Connect) -> None:
    admin = Admin(await connect(database))
    async with open_bus(database) as bus:
        inbox = collect(bus)
        async with running(bus):
            pass
        await publish(bus, 1)
        await admin.listeners.remove("mail")
        async with running(bus) as worker:
            await eventually(lambda: worker.leads)
            await publish(bus, 2)
            await inbox.until(lambda items: 2 in items)


async def test_registering_a_listener_makes_no_other_one_look_for_work(database: str, connect: Connect) -> None:
    count = 60
    async with open_bus(database) as bus:
        for number in range(count):
            collect(bus, name=f"listener_{number}")
        async with running(bus):
            pass
    connection = await connect(database)
    # What a session has counted is there for others once it has ended.
    await eventually(
        lambda: connection.fetchval("SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database()")
    )
    transactions = await connection.fetchval(
        "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    )
    assert transactions < 15 * count


async def test_thousands_of_listeners_are_registered_in_as_many_statements_as_one(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = Store.fetch
    fetched: list[str] = []

    async def count_and_fetch(store: Store, name: str, /, **values: object) -> list[Any]:
        fetched.append(name)
        return await fetch(store, name, **values)

    monkeypatch.setattr(Store, "fetch", count_and_fetch)
    async with open_bus(database) as bus:
        for number in range(2_000):
            collect(bus, f"a.t{number}", "a.all", name=f"listener {number}")
        pool = await create_pool(bus.config, size=1, for_engine=True)
        try:
            declared = list(bus.registry.listeners)
            for some in (declared[:1], declared, declared):
                fetched.clear()
                ids = await register_listeners(some, pool=pool, config=bus.config, worker_id=1)
                assert list(ids) == [listener.name for listener in some]
                assert len(fetched) <= 6
            async with pool.acquire() as connection:
                assert await connection.fetchval("SELECT count(*) FROM pgbus.subscriptions") == 4_000
                assert await connection.fetchval("SELECT count(*) FROM pgbus.declarations") == 2_000
        finally:
            await pool.close()


async def test_a_worker_leads_while_the_registration_of_its_listeners_takes_long(
    database: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_loop, "BEGIN_TIME", 0.05)
    await log(database, 1)
    holder = await connect(database)
    await Rows(holder).listener("mail", "a.b")
    async with open_bus(database) as bus:
        inbox = collect(bus)
        worker = make_worker(bus)
        watch = Watch(bus)
        async with holder.transaction():
            await holder.execute("SELECT FROM pgbus.listeners FOR UPDATE")
            task = asyncio.create_task(worker.run())
            await publish(bus, 2)
            await watch.first(Sequenced)
            assert not worker.ready.is_set()
        assert await inbox.take(1) == [2]
        await worker.stop()
        await task
