"""Handlers that take a list of events."""

from __future__ import annotations

import json

import pgbus
from tests.conftest import Connect
from tests.support.shapes import AsDataclass
from tests.support.tables import letters
from tests.support.workers import Inbox, open_bus, running, until_idle


async def test_a_batch_handler_takes_a_list_of_events(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        inbox: Inbox[list[AsDataclass]] = Inbox()
        contexts: list[pgbus.Context] = []

        @bus.listener(AsDataclass, name="mail", batch=True, batch_size=10)
        async def handle(events: list[AsDataclass], context: pgbus.Context) -> None:
            inbox.put(events)
            contexts.append(context)

        async with running(bus):
            await bus.publish_many([AsDataclass(number) for number in range(25)])
            await inbox.until(lambda lists: sum(map(len, lists)) == 25)
            await until_idle(connection)
    assert sorted(event.n for events in inbox.items for event in events) == list(range(25))
    assert 1 < max(map(len, inbox.items)) <= 10
    assert [len(context.events) for context in contexts] == [len(events) for events in inbox.items]
    assert await connection.fetchval("SELECT count(*) FROM pgbus.attempts WHERE outcome = 'done'") == 25


async def test_a_batch_handler_may_be_a_plain_function(database: str) -> None:
    async with open_bus(database) as bus:
        inbox: Inbox[list[dict[str, int]]] = Inbox()

        @bus.listener("a.b", name="mail", batch=True)
        def handle(events: list[dict[str, int]]) -> None:
            inbox.put(events)

        async with running(bus):
            await bus.publish_many([{"n": number} for number in range(5)], topic="a.b")
            await inbox.until(lambda lists: sum(map(len, lists)) == 5)


async def test_a_failed_batch_is_tried_event_by_event_and_only_the_culprit_is_retried(
    database: str, connect: Connect
) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        calls: Inbox[list[int]] = Inbox()

        @bus.listener("a.b", name="mail", batch=True, batch_size=10, retry=1)
        async def handle(events: list[dict[str, int]]) -> None:
            numbers = [event["n"] for event in events]
            calls.put(numbers)
            if 3 in numbers:
                raise ValueError("three")

        async with running(bus):
            await bus.publish_many([{"n": number} for number in range(6)], topic="a.b")
            await calls.until(lambda lists: [3] in lists)
            await until_idle(connection)
    assert await letters(connection) == [("mail", "ValueError: three", 1)]
    done = await connection.fetch("SELECT payload FROM pgbus.event_history WHERE outcome = 'done'")
    assert sorted(json.loads(row["payload"])["n"] for row in done) == [0, 1, 2, 4, 5]


async def test_an_undecodable_event_of_a_batch_is_dead_and_the_rest_handled_together(
    database: str, connect: Connect
) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        calls: Inbox[list[int]] = Inbox()

        @bus.listener(AsDataclass, name="mail", batch=True, batch_size=10)
        async def handle(events: list[AsDataclass]) -> None:
            calls.put([event.n for event in events])

        async with running(bus):
            await bus.publish_many([{"n": 0}, {"n": "one"}, {"n": 2}], topic="shapes.dataclass")
            await until_idle(connection)
    assert sorted(number for call in calls.items for number in call) == [0, 2]
    [(_, error, attempts)] = await letters(connection)
    assert (error.split(":")[0], attempts) == ("UnhandledEventError", 1)
