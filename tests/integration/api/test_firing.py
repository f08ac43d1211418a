"""The API-class face in one process: what is fired is heard, by whom and under which names."""

from __future__ import annotations

import pytest

import pgbus
from pgbus import Api, Event, EventMessage
from tests.support.auth import AuthApi, Heard, working

# ------------------------------------------------------------------------------------------------------ fire and listen


async def test_what_is_fired_is_heard_with_its_arguments_by_name(bus: pgbus.Bus) -> None:
    heard = Heard()

    def sync_handler(username: str, email: str) -> None:
        heard(("sync", username, email))

    async def async_handler(event_message: EventMessage, username: str, email: str) -> None:
        heard(("async", event_message.canonical_name, event_message.version, event_message.native_id, username, email))

    bus.auth.user_created.listen(sync_handler)
    await bus.auth.user_created.listen_async(async_handler, listener_name="second")
    async with working(bus):
        fired = await bus.auth.user_created.fire_async(username="adam", email="a@example.com")
        calls = await heard.wait(2)
    assert sorted(calls) == [
        ("async", "auth.user_created", 3, "1", "adam", "a@example.com"),
        ("sync", "adam", "a@example.com"),
    ]
    assert (fired.api_name, fired.event_name, fired.version) == ("auth", "user_created", 3)
    assert fired.kwargs == {"username": "adam", "email": "a@example.com"}


async def test_defaults_and_wildcards_travel(bus: pgbus.Bus) -> None:
    heard = Heard()
    bus.auth.seen.listen(lambda name, note, is_admin: heard((name, note, is_admin)), listener_name="seen")
    bus.auth.anything.listen(lambda **rest: heard(rest), listener_name="anything")
    async with working(bus):
        await bus.auth.seen.fire_async(name="adam")
        await heard.wait(1)
        await bus.auth.anything.fire_async(x=1, self="me")
        assert await heard.wait(2) == [("adam", None, False), {"x": 1, "self": "me"}]


async def test_a_dotted_api_name_is_a_path_of_more_words(bus: pgbus.Bus) -> None:
    class CaseApi(Api):
        opened = Event(parameters=("number",))

        class Meta:
            name = "support.case"

    heard = Heard()
    bus.client.register_api(CaseApi())
    bus.support.case.opened.listen(lambda number: heard(number), listener_name="cases")
    async with working(bus):
        await bus.support.case.opened.fire_async(number=7)
        assert await heard.wait(1) == [7]


async def test_an_api_named_like_an_attribute_of_the_bus_works_through_the_client(bus: pgbus.Bus) -> None:
    class ConfigApi(Api):
        changed = Event(parameters=("name",))

        def read(self, name: str) -> str:
            return name.upper()

        class Meta:
            name = "config"

    heard = Heard()
    bus.client.register_api(ConfigApi())
    bus.client.listen_for_event("config", "changed", lambda name: heard(name), "changes")
    async with working(bus):
        await bus.client.fire_event("config", "changed", {"name": "lease"})
        assert await heard.wait(1) == ["lease"]
        assert await bus.client.call_rpc_remote("config", "read", {"name": "lease"}) == "LEASE"


async def test_one_listener_hears_many_events_or_all_of_an_api(bus: pgbus.Bus) -> None:
    heard = Heard()

    def handle(event: EventMessage, username: str, **rest: str) -> None:
        heard((event.event_name, username, rest))

    events = [("auth", "user_created"), ("auth", "user_deleted")]
    bus.client.listen_for_events(events, handle, "both")
    bus.client.listen_for_event("auth", "*", lambda event, **rest: heard(("all", rest["username"])), "all")
    async with working(bus):
        await bus.auth.user_created.fire_async(username="adam", email="x")
        await bus.client.fire_event("auth", "user_deleted", {"username": "eve"})
        calls = await heard.wait(4)
    assert sorted(calls, key=repr) == [
        ("all", "adam"),
        ("all", "eve"),
        ("user_created", "adam", {"email": "x"}),
        ("user_deleted", "eve", {}),
    ]


async def test_two_listeners_of_one_service_get_every_event_and_a_name_is_given_once(database: str) -> None:
    class PricesApi(Api):
        changed = Event(parameters=("price",))

        class Meta:
            name = "competitor_prices"

    heard = Heard()
    async with pgbus.create(database, service_name="price-monitor") as bus:
        bus.client.register_api(PricesApi())
        changed = bus.competitor_prices.changed
        changed.listen(lambda price: heard(("alert", price)), listener_name="send_price_alerts")
        changed.listen(lambda price: heard(("update", price)), listener_name="update_db")
        with pytest.raises(pgbus.DuplicateListenerName, match="price-monitor-update_db"):
            changed.listen(lambda price: None, listener_name="update_db")
        async with working(bus):
            for price in (1, 2):
                await changed.fire_async(price=price)
            calls = await heard.wait(4)
    assert sorted(calls) == [("alert", 1), ("alert", 2), ("update", 1), ("update", 2)]


async def test_services_may_give_their_listeners_the_same_name(database: str) -> None:
    heard = Heard()
    async with (
        pgbus.create(database, service_name="auth") as firing,
        pgbus.create(database, service_name="one") as one,
        pgbus.create(database, service_name="two") as two,
    ):
        firing.client.register_api(AuthApi())
        one.auth.user_deleted.listen(lambda username: heard(("one", username)), listener_name="gone")
        two.auth.user_deleted.listen(lambda username: heard(("two", username)), listener_name="gone")
        async with working(one), working(two):
            await firing.auth.user_deleted.fire_async(username="adam")
            assert sorted(await heard.wait(2)) == [("one", "adam"), ("two", "adam")]


async def test_a_default_listener_name_is_the_same_at_every_start(bus: pgbus.Bus, database: str) -> None:
    def handle(username: str) -> None: ...

    bus.auth.user_deleted.listen(handle)
    bus.auth.seen.listen(lambda name, **rest: None)
    again = pgbus.create(database)
    again.auth.user_deleted.listen(handle)
    [first, _], [second] = bus.listeners, again.listeners
    assert (
        first.name
        == second.name
        == (
            "auth.user_deleted:tests.integration.api.test_firing.test_a_default_listener_name_is_the_same_at_every_start.handle"
        )
    )


async def test_a_listener_may_begin_at_the_beginning_or_behind_an_event(bus: pgbus.Bus, database: str) -> None:
    heard = Heard()
    async with working(bus):
        for name in ("a", "b", "c"):
            await bus.auth.user_deleted.fire_async(username=name)
        bus.auth.user_deleted.listen(
            lambda username: heard(("since 0", username)), listener_name="zero", bus_options={"since": "0"}
        )
        await heard.wait(3)
        bus.auth.user_deleted.listen(
            lambda username: heard(("since 2", username)), listener_name="two", bus_options={"since": "2"}
        )
        bus.auth.user_deleted.listen(lambda username: heard(("now", username)), listener_name="now")
        await heard.wait(4)
    assert sorted(heard.calls) == [("since 0", "a"), ("since 0", "b"), ("since 0", "c"), ("since 2", "c")]


async def test_a_handler_may_ask_for_the_context(bus: pgbus.Bus) -> None:
    heard = Heard()

    def handle(username: str, context: pgbus.Context) -> None:
        heard((username, context.attempt, context.listener_name))

    bus.auth.user_deleted.listen(handle, listener_name="gone")
    async with working(bus):
        await bus.auth.user_deleted.fire_async(username="adam")
        assert await heard.wait(1) == [("adam", 1, "gone")]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"colour": "red"}, "no option 'colour'"),
        ({"since": "yesterday"}, "since is"),
        ({"since": ["0"]}, "since is"),
        ({"concurrency": 0}, "concurrency is"),
        ({"transactional": True}, "annotate a parameter"),
    ],
)
async def test_a_wrong_option_of_a_listener_is_named(bus: pgbus.Bus, options: dict[str, object], reason: str) -> None:
    with pytest.raises(pgbus.ConfigurationError, match=reason):
        bus.auth.user_deleted.listen(lambda username: None, bus_options=options)


async def test_a_handler_that_cannot_take_an_event_known_here_is_refused_at_once(bus: pgbus.Bus) -> None:
    with pytest.raises(pgbus.InvalidEventListener, match="'email'"):
        bus.auth.user_created.listen(lambda username: None)


# ---------------------------------------------------------------------------------------------------- threads and loops


async def test_an_api_listener_handles_one_event_at_a_time_unless_it_says_more(bus: pgbus.Bus) -> None:
    bus.auth.user_deleted.listen(lambda username: None, listener_name="one")
    bus.auth.user_deleted.listen(lambda username: None, listener_name="many", bus_options={"concurrency": 7})
    assert [listener.concurrency for listener in bus.listeners] == [1, 7]
