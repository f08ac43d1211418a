"""Ordered listeners: the events of one key come one after the other, whatever fails and whoever works."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from typing import Any

import asyncpg
import pytest

import pgbus
from pgbus.admin import Admin, DeadFilter
from pgbus.listeners.attempts import LOOP_SHARE
from pgbus.listeners.listener import LANES
from pgbus.telemetry import ClaimsLost, ListenerDraining, SessionLost, SessionOpened
from tests.conftest import Connect
from tests.support import eventually
from tests.support.workers import QUICK_RETRY, Inbox, Watch, open_bus, running, until_idle

Step = tuple[str, int]


def by_key(steps: list[Step]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for key, number in steps:
        found[key].append(number)
    return dict(found)


async def publish(bus: pgbus.Bus, key: str, number: int, **more: Any) -> None:
    await bus.publish({"key": key, "n": number, **more}, topic="a.b", key=key)


async def count(connection: asyncpg.Connection, what: str) -> int:
    return int(await connection.fetchval(f"SELECT count(*) FROM pgbus.{what}"))


async def lane(connection: asyncpg.Connection, key: str) -> int:
    return int(await connection.fetchval(f"SELECT (hashtext($1) & 2147483647) % {LANES}", key))


async def test_no_two_events_of_a_key_are_handled_at_once(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        at_work: set[str] = set()
        together: Inbox[Step] = Inbox()

        @bus.listener("a.b", name="steps", ordered=True, concurrency=20)
        async def handle(event: dict[str, Any]) -> None:
            assert event["key"] not in at_work
            at_work.add(event["key"])
            for _ in range(random.randrange(4)):
                await asyncio.sleep(0)
            at_work.remove(event["key"])
            together.put((event["key"], event["n"]))

        async with running(bus):
            pass
        async with connection.transaction():
            for number in range(100):
                for key in "abcd":
                    await bus.publish({"key": key, "n": number}, topic="a.b", key=key, using=connection)
        async with running(bus):
            await until_idle(connection)
    assert by_key(together.items) == {key: list(range(100)) for key in "abcd"}


@pytest.mark.parametrize("seed", range(4))
async def test_each_key_keeps_its_order_with_several_workers_and_failing_events(
    database: str, connect: Connect, seed: int
) -> None:
    chance = random.Random(seed)
    connection = await connect(database)
    keys = [f"key-{number}" for number in range(chance.choice([1, 3, 12]))]
    failures = {(key, number): chance.randrange(3) for key in keys for number in range(25) if chance.random() < 0.2}
    async with open_bus(database) as one, open_bus(database) as two:
        done: Inbox[Step] = Inbox()
        watches = [Watch(one), Watch(two)]
        for bus in (one, two):

            @bus.listener("a.b", name="steps", ordered=True, retry=QUICK_RETRY, concurrency=chance.choice([1, 2, 10]))
            async def handle(event: dict[str, Any], context: pgbus.Context) -> None:
                step = event["key"], event["n"]
                for _ in range(chance.randrange(3)):
                    await asyncio.sleep(0)
                if context.attempt <= failures.get(step, 0):
                    raise ValueError("once more")
                done.put(step)

        async def publish_key(key: str) -> None:
            number = 0
            while number < 25:
                size = min(chance.choice([1, 1, 2, 9]), 25 - number)
                await publish_some(key, number, size)
                number += size

        async def publish_some(key: str, start: int, size: int) -> None:
            own = await asyncpg.connect(database)
            try:
                async with own.transaction():
                    for number in range(start, start + size):
                        await one.publish({"key": key, "n": number}, topic="a.b", key=key, using=own)
            finally:
                await own.close()

        async with running(one), running(two):
            await asyncio.gather(*map(publish_key, keys))
            await until_idle(connection)
    assert by_key(done.items) == {key: list(range(25)) for key in keys}
    assert [watch.of(ClaimsLost) for watch in watches] == [[], []]


async def test_a_key_has_the_same_lane_on_every_version_of_the_server(database: str, connect: Connect) -> None:
    """Else what was owed before an upgrade would not bar what comes after it."""
    connection = await connect(database)
    hashes = (
        "SELECT md5(string_agg(CAST(hashtext(n || 'é') AS text), ',' ORDER BY n)) FROM generate_series(1, 1000) AS n"
    )
    assert await connection.fetchval(hashes) == "42d6c71b0bfd2df28aca823132899b5e"


async def test_a_retry_bars_its_lane_and_no_other(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        seen: Inbox[Step] = Inbox()

        @bus.listener("a.b", name="steps", ordered=True)
        async def handle(event: dict[str, Any], context: pgbus.Context) -> None:
            if (event["key"], event["n"], context.attempt) == ("bad", 1, 1):
                raise pgbus.Retry(after=3600)
            seen.put((event["key"], event["n"]))

        async with running(bus):
            await publish(bus, "bad", 1)
            await eventually(lambda: count(connection, "attempts"))
            await publish(bus, "bad", 2)
            good = [f"good-{number}" for number in range(30)]
            others = [key for key in good if await lane(connection, key) != await lane(connection, "bad")]
            for key in others:
                await publish(bus, key, 1)
            await seen.take(len(others))
            assert sorted(seen.items) == sorted((key, 1) for key in others)
            await connection.execute("UPDATE pgbus.deliveries SET available_at = now() WHERE attempt = 2")
            await connection.execute("NOTIFY pgbus_work, 'reload'")
            await until_idle(connection)
    assert by_key(seen.items)["bad"] == [1, 2]


async def test_events_without_a_key_do_not_wait_for_each_other(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        inbox: Inbox[int] = Inbox()

        @bus.listener("a.b", name="steps", ordered=True)
        async def handle(event: dict[str, int]) -> None:
            if event["n"] == 0:
                raise pgbus.Retry(after=3600)
            inbox.put(event["n"])

        async with running(bus):
            await bus.publish({"n": 0}, topic="a.b")
            await eventually(lambda: count(connection, "attempts"))
            await bus.publish_many([{"n": number} for number in range(1, 65)], topic="a.b")
            await inbox.take(48)  # they are spread over the lanes; a few share that of the one that waits


async def test_a_dead_letter_lets_the_next_event_of_its_key_go_on(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        seen: Inbox[Step] = Inbox()

        @bus.listener("a.b", name="steps", ordered=True, retry=1)
        async def handle(event: dict[str, Any]) -> None:
            if event["n"] == 1:
                raise ValueError("no")
            seen.put((event["key"], event["n"]))

        async with running(bus):
            for number in range(4):
                await publish(bus, "k", number)
            await until_idle(connection)
    assert seen.items == [("k", 0), ("k", 2), ("k", 3)]
    assert await connection.fetchval("SELECT blocked_key FROM pgbus.dead_letters") is None


class Blocking:
    """A listener that blocks on poison; `poison` are the steps that fail."""

    def __init__(self, bus: pgbus.Bus, connection: asyncpg.Connection, *, transactional: bool = False) -> None:
        self.seen: Inbox[Step] = Inbox()
        self.poison: set[Step] = {("bad", 1)}
        self.connection = connection
        declare = bus.listener(
            "a.b", name="steps", ordered=True, retry=1, on_poison="block", transactional=transactional
        )

        async def handle(event: dict[str, Any]) -> None:
            step = event["key"], event["n"]
            if step in self.poison:
                raise ValueError("poison")
            self.seen.put(step)

        async def handle_in_transaction(event: dict[str, Any], own: asyncpg.Connection) -> None:
            await handle(event)

        declare(handle_in_transaction if transactional else handle)

    async def until_blocked(self, events: int) -> None:
        """Wait until so many events wait behind dead letters, and no other does."""

        async def all_blocked() -> bool:
            [left] = await self.connection.fetch(
                "SELECT count(*), count(blocked_key), (SELECT count(*) FROM pgbus.outbox) FROM pgbus.deliveries"
            )
            return tuple(left) == (events, events, 0)

        await eventually(all_blocked)


@pytest.mark.parametrize("transactional", [False, True], ids=["plain", "transactional"])
async def test_a_poisoned_key_waits_and_other_keys_of_its_lane_go_on(
    database: str, connect: Connect, transactional: bool
) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        listener = Blocking(bus, connection, transactional=transactional)
        async with running(bus):
            await connection.execute("UPDATE pgbus.listeners SET lanes = 1")
            for number in range(4):
                for key in ("bad", "good"):
                    await publish(bus, key, number)
            await listener.until_blocked(2)
            assert by_key(listener.seen.items) == {"bad": [0], "good": [0, 1, 2, 3]}
            # Also what comes after the worker has forgotten.
            await publish(bus, "bad", 4)
            await publish(bus, "good", 4)
            await listener.until_blocked(3)
            assert by_key(listener.seen.items) == {"bad": [0], "good": [0, 1, 2, 3, 4]}


async def test_a_key_that_was_poisoned_within_a_run_waits_with_the_rest_of_the_run(
    database: str, connect: Connect
) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        listener = Blocking(bus, connection)
        async with running(bus):
            async with connection.transaction():
                for number in range(6):
                    await bus.publish({"key": "bad", "n": number}, topic="a.b", key="bad", using=connection)
            await listener.until_blocked(4)
    assert listener.seen.items == [("bad", 0)]


@pytest.mark.parametrize("verb", ["retry", "discard"])
async def test_acting_on_the_dead_letter_releases_its_key_in_order(database: str, connect: Connect, verb: str) -> None:
    connection = await connect(database)
    admin = Admin(await connect(database))
    async with open_bus(database) as bus:
        listener = Blocking(bus, connection)
        async with running(bus):
            for number in range(5):
                await publish(bus, "bad", number)
            await listener.until_blocked(3)
            listener.poison.clear()
            settle = admin.dead_letters.retry if verb == "retry" else admin.dead_letters.discard
            assert len(await settle()) == 1
            await until_idle(connection)
    expected = [0, 1, 2, 3, 4] if verb == "retry" else [0, 2, 3, 4]
    assert listener.seen.items == [("bad", number) for number in expected]
    assert await count(connection, "dead_letters") == 0


async def test_a_retried_letter_that_fails_again_blocks_its_key_again(database: str, connect: Connect) -> None:
    connection = await connect(database)
    admin = Admin(await connect(database))
    async with open_bus(database) as bus:
        listener = Blocking(bus, connection)
        async with running(bus):
            for number in range(4):
                await publish(bus, "bad", number)
            await listener.until_blocked(2)
            [first] = await admin.dead_letters.retry()
            await eventually(
                lambda: connection.fetchval("SELECT count(*) FROM pgbus.dead_letters WHERE id > $1", first)
            )
            await listener.until_blocked(2)
            assert listener.seen.items == [("bad", 0)]
            await admin.dead_letters.discard(DeadFilter(listener_name="steps"))
            await until_idle(connection)
    assert listener.seen.items == [("bad", 0), ("bad", 2), ("bad", 3)]


async def test_two_poisoned_keys_are_released_each_by_its_own_letter(database: str, connect: Connect) -> None:
    connection = await connect(database)
    admin = Admin(await connect(database))
    async with open_bus(database) as bus:
        listener = Blocking(bus, connection)
        listener.poison = {("bad", 0), ("worse", 0)}
        async with running(bus):
            for number in range(3):
                await publish(bus, "bad", number)
                await publish(bus, "worse", number)
            await listener.until_blocked(4)
            letters = {letter.event.key: letter.id for letter in await admin.dead_letters.find()}
            await admin.dead_letters.discard(DeadFilter(ids=(letters["bad"],)))
            await listener.until_blocked(2)
            assert listener.seen.items == [("bad", 1), ("bad", 2)]


async def test_stopping_gives_back_the_rest_of_a_lane_and_it_goes_on_in_order(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database, grace=10) as bus:
        seen: Inbox[Step] = Inbox()
        go_on = asyncio.Event()

        @bus.listener("a.b", name="steps", ordered=True, batch_size=50)
        async def handle(event: dict[str, Any]) -> None:
            seen.put((event["key"], event["n"]))
            await go_on.wait()

        async with running(bus):
            pass
        async with connection.transaction():
            for number in range(10):
                await bus.publish({"key": "k", "n": number}, topic="a.b", key="k", using=connection)
        watch = Watch(bus)
        async with running(bus, only=["steps"]) as worker:
            await seen.take(1)
            stopping = asyncio.create_task(worker.stop())
            await watch.first(ListenerDraining)
            go_on.set()
            await stopping
        assert seen.items == [("k", 0)]
        async with running(bus):
            await until_idle(connection)
    assert seen.items == [("k", number) for number in range(10)]


async def test_an_event_whose_handler_was_cut_off_from_the_bus_keeps_its_place(database: str, connect: Connect) -> None:
    connection, killer = await connect(database), await connect(database)
    async with open_bus(database) as bus:
        watch, seen = Watch(bus), Inbox[Step]()

        @bus.listener("a.b", name="steps", ordered=True, retry=1, batch_size=50)
        async def handle(event: dict[str, Any]) -> None:
            if event["n"] == 0 and not watch.of(SessionLost):
                sessions = len(watch.of(SessionOpened))
                await killer.execute(
                    "SELECT pg_terminate_backend(l.pid) FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid "
                    "WHERE l.locktype = 'advisory' AND a.datname = current_database()"
                )
                await watch.first(SessionOpened, after=sessions)
                raise pgbus.DatabaseUnreachableError("the bus", "the server closed the connection")
            seen.put((event["key"], event["n"]))

        async with running(bus):
            pass
        async with connection.transaction():
            for number in range(5):
                await bus.publish({"key": "k", "n": number}, topic="a.b", key="k", using=connection)
        async with running(bus):
            await until_idle(connection)
        outcomes = await connection.fetch("SELECT outcome FROM pgbus.attempts")
    assert seen.items == [("k", number) for number in range(5)]
    assert [outcome for (outcome,) in outcomes] == ["done"] * 5


async def test_a_lane_settles_each_run_once(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        watch = Watch(bus)

        @bus.listener("a.b", name="steps", ordered=True)
        async def handle(event: dict[str, Any]) -> None:
            time.sleep(2 * LOOP_SHARE)  # noqa: ASYNC251 - so that the loop settles the run before the lane is through with it

        async with running(bus):
            for number in range(6):
                await publish(bus, "k", number)
            await until_idle(connection)
    assert await count(connection, "attempts") == 6
    assert watch.of(ClaimsLost) == []


@pytest.mark.parametrize("before", [True, False], ids=["ordered no longer", "ordered from now on"])
async def test_a_listener_that_changes_its_order_loses_nothing_that_it_was_owed(
    database: str, connect: Connect, before: bool
) -> None:
    connection = await connect(database)
    async with open_bus(database) as old:

        @old.listener("a.b", name="steps", ordered=before)
        async def retire(event: dict[str, Any], context: pgbus.Context) -> None:
            # Soon only once: a worker that is stopped late would use up the attempts of this event.
            raise pgbus.Retry(after=0.01 if (event["n"], context.attempt) == (0, 1) else 3600)

        async with running(old):
            for number in range(3):
                await publish(old, "k", number)
            await eventually(lambda: count(connection, "attempts"))
    await connection.execute("UPDATE pgbus.deliveries SET available_at = now()")
    async with open_bus(database) as new:
        inbox: Inbox[int] = Inbox()

        @new.listener("a.b", name="steps", ordered=not before)
        async def handle(event: dict[str, Any]) -> None:
            inbox.put(event["n"])

        async with running(new):
            await publish(new, "k", 3)
            assert sorted(await inbox.take(4)) == [0, 1, 2, 3]
            await until_idle(connection)


@pytest.mark.parametrize(("verb", "again"), [("retry", [0]), ("reset", [0, 1])])
async def test_what_an_operator_puts_back_before_an_event_in_hand_waits_for_it(
    database: str, connect: Connect, verb: str, again: list[int]
) -> None:
    connection = await connect(database)
    admin = Admin(await connect(database))
    lanes = {key: await lane(connection, key) for key in "abcdefghk"}
    other = next(key for key in lanes if lanes[key] != lanes["k"])
    async with open_bus(database) as bus:
        begun: Inbox[Step] = Inbox()
        done: list[Step] = []
        go_on = asyncio.Event()

        @bus.listener("a.b", name="steps", ordered=True)
        async def handle(event: dict[str, Any]) -> None:
            step = (event["key"], event["n"])
            begun.put(step)
            if len(begun.items) == 1:
                raise pgbus.Dead("no")
            if event["key"] == "k":
                await go_on.wait()
            done.append(step)

        async with running(bus):
            await publish(bus, "k", 0)
            await eventually(lambda: count(connection, "dead_letters"))
            await publish(bus, "k", 1)
            await begun.take(2)
            await (admin.dead_letters.retry() if verb == "retry" else admin.listeners.reset("steps", to="beginning"))
            # It has claimed again since.
            await publish(bus, other, 0)
            await begun.until(lambda steps: (other, 0) in steps)
            assert by_key(begun.items)["k"] == [0, 1]
            go_on.set()
            await until_idle(connection)
    assert by_key(done)["k"] == [1, *again]
