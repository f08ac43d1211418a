"""Which events a listener hears, and as which class."""

from __future__ import annotations

import pgbus
from tests.conftest import Connect
from tests.support.shapes import Animal, AsDataclass, AsStruct, Dog
from tests.support.workers import Inbox, open_bus, running


async def test_a_listener_hears_several_topics_and_patterns_each_event_once(database: str) -> None:
    async with open_bus(database) as bus:
        inbox: Inbox[str] = Inbox()

        @bus.listener("orders.placed", "orders.*", "users.**", name="mail")
        async def handle(event: pgbus.EventMessage) -> None:
            inbox.put(event.topic)

        topics = ["orders.placed", "orders.paid", "orders.paid.late", "users", "users.a.b", "nobody.hears"]
        async with running(bus):
            for topic in topics:
                await bus.publish({}, topic=topic)
            await bus.publish({}, topic="orders.last")
            await inbox.until(lambda seen: "orders.last" in seen)
    assert sorted(inbox.items) == ["orders.last", "orders.paid", "orders.placed", "users", "users.a.b"]


async def test_a_union_annotation_decodes_each_topic_into_its_class(database: str) -> None:
    async with open_bus(database) as bus:
        inbox: Inbox[object] = Inbox()

        @bus.listener(AsDataclass, AsStruct, name="mail", concurrency=1)
        async def handle(event: AsDataclass | AsStruct) -> None:
            inbox.put(event)

        async with running(bus):
            await bus.publish(AsDataclass(1))
            await bus.publish(AsStruct(2))
            assert await inbox.take(2) == [AsDataclass(1), AsStruct(2)]


async def test_a_listener_on_a_parent_hears_its_subclasses_as_what_they_are(database: str) -> None:
    async with open_bus(database) as bus:
        inbox: Inbox[Animal] = Inbox()

        @bus.listener(Animal, name="mail", concurrency=1)
        async def handle(event: Animal) -> None:
            inbox.put(event)

        async with running(bus):
            await bus.publish(Animal("a"))
            await bus.publish(Dog("d", "roll"))
            assert await inbox.take(2) == [Animal("a"), Dog("d", "roll")]


async def test_a_subclass_that_only_the_publisher_knows_arrives_as_its_parent(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:
        inbox: Inbox[Animal] = Inbox()

        @bus.listener(Animal, name="mail")
        async def handle(event: Animal) -> None:
            inbox.put(event)

        async with running(bus):
            await connection.execute(
                "INSERT INTO pgbus.outbox (topic, ancestors, payload) VALUES ($1, $2, $3)",
                "animals.cat",
                ["animals.animal"],
                '{"name": "c", "lives": 9}',
            )
            assert await inbox.take(1) == [Animal("c")]
