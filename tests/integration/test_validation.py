"""`validate`, `strict_validation` and `cast_values` of an API, between processes that have it registered and others."""

from __future__ import annotations

from typing import Any, NamedTuple

from pgbus import Api, Event, Parameter
from tests.conftest import Connect
from tests.support import eventually
from tests.support.workers import Inbox, open_bus, running


class Point(NamedTuple):
    x: int
    y: int = 0


class GeoApi(Api):
    moved = Event(parameters=(Parameter("to", Point),))

    class Meta:
        name = "geo"

    async def mirror(self, at: Point) -> Point:
        return at

    async def kind(self, at: Point) -> str:
        return type(at).__name__


async def heard_by(database: str, geo: dict[str, object], payload: object) -> object:
    """What a listener gets of an event, in a process of these settings that knows nothing of the API."""
    inbox: Inbox[object] = Inbox()

    def handle(to: Point) -> None:
        inbox.put(to)

    async with open_bus(database, apis={"geo": geo}) as bus:
        bus.geo.moved.listen(handle, listener_name="moves")
        async with running(bus):
            await bus.publish(payload, topic="geo.moved")
            return (await inbox.take(1))[0]


async def test_a_listener_gets_what_the_settings_of_the_events_api_say(database: str) -> None:
    assert await heard_by(database, {}, {"to": {"x": "1"}}) == Point(1)
    assert await heard_by(database, {"cast_values": False}, {"to": {"x": 1}}) == {"x": 1}
    assert await heard_by(database, {"validate": {"incoming": False}}, {"to": {"x": "far"}}) == {"x": "far"}


async def test_a_service_that_does_not_validate_sends_what_it_is_given(database: str) -> None:
    async with open_bus(database, apis={"geo": {"validate": False}}) as bus:
        bus.client.register_api(GeoApi())
        inbox: Inbox[object] = Inbox()
        bus.geo.moved.listen(lambda to: inbox.put(to), listener_name="moves")
        async with running(bus):
            await bus.geo.moved.fire_async(to="nowhere")
            assert await inbox.take(1) == ["nowhere"]
            assert await bus.geo.kind.call_async(at="nowhere") == "str"
            assert await bus.geo.mirror.call_async(at="nowhere") == "nowhere"
            assert await bus.geo.mirror.call_async(at=Point(1)) == Point(1)


async def test_a_caller_that_casts_nothing_gets_plain_values(database: str) -> None:
    async with open_bus(database, apis={"geo": {"cast_values": False}}) as bus:
        bus.client.register_api(GeoApi())
        async with running(bus):
            assert await bus.geo.kind.call_async(at=Point(1)) == "dict"
            assert await bus.geo.mirror.call_async(at=Point(1)) == {"x": 1, "y": 0}
            assert await bus.geo.mirror.call_async(at=Point(1), bus_options={"returns": Point}) == Point(1)


async def test_strict_validation_gives_up_events_of_an_api_that_nobody_has_told_of(
    database: str, connect: Connect
) -> None:
    inbox: Inbox[Any] = Inbox()
    connection = await connect(database)

    async def errors() -> Any:
        rows = await connection.fetch("SELECT error FROM pgbus.dead_letters ORDER BY position")
        return rows if len(rows) == 2 else None

    async with open_bus(database, apis={"default": {"strict_validation": True}}) as bus, open_bus(database) as geo:
        geo.client.register_api(GeoApi())
        for path in (bus.geo.moved, bus.geo.lost, bus.heaven.moved):
            path.listen(lambda to: inbox.put(to), listener_name=str(path), bus_options={"retry": 1})
        async with running(bus), running(geo):
            await eventually(lambda: ("geo", "moved") in bus.schema.events)
            await geo.publish({"to": {"x": 1}}, topic="heaven.moved")
            await geo.publish({"to": {"x": 1}}, topic="geo.lost")
            await geo.geo.moved.fire_async(to=Point(1))
            await inbox.take(1)
            first, second = await eventually(errors)
    assert first["error"].startswith("UnknownApi: no service has registered an API named 'heaven'")
    assert second["error"] == "SchemaNotFound: API 'geo' has no event 'lost' that is known"
