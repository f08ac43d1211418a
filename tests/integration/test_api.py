"""The API-class face in one process: fire, listen, transactions, errors, threads."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import psycopg
import pytest

import pgbus
from pgbus import Api, Event, EventMessage, OnError, Parameter, WildcardParameter
from pgbus.bus import make_worker
from pgbus.telemetry import Settled
from pgbus.worker.worker import Worker
from tests.conftest import Connect
from tests.support import eventually


class AuthApi(Api):
    user_created = Event(parameters=("username", "email"))
    user_deleted = Event(parameters=("username"))
    seen = Event(parameters=("name", Parameter("note", str | None), Parameter("is_admin", bool, default=False)))
    anything = Event(parameters=(WildcardParameter(),))

    class Meta:
        name = "auth"
        version = 3


@pytest.fixture
async def bus(database: str) -> AsyncIterator[pgbus.Bus]:
    """A bus of a service that speaks for `auth`."""
    async with pgbus.create(database) as bus:
        bus.client.register_api(AuthApi())
        yield bus


@asynccontextmanager
async def working(bus: pgbus.Bus) -> AsyncIterator[Worker]:
    worker = make_worker(bus)
    task = asyncio.create_task(worker.run())
    ready = asyncio.create_task(worker.ready.wait())
    try:
        await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
        assert not task.done(), task.exception()
        yield worker
    finally:
        ready.cancel()
        worker.request_stop()
        await task


class Heard:
    """What handlers were called with, to be waited for."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __call__(self, call: Any) -> None:
        self.calls.append(call)

    async def wait(self, count: int) -> list[Any]:
        await eventually(lambda: len(self.calls) >= count, message=f"{count} calls; got {self.calls}")
        return self.calls


async def outcomes(connection: asyncpg.Connection, listener_name: str) -> list[str]:
    rows = await connection.fetch(
        """
        SELECT outcome FROM pgbus.history JOIN pgbus.listeners ON listeners.id = history.listener_id
        WHERE listener_name = $1 ORDER BY position, attempt
        """,
        listener_name,
    )
    return [row["outcome"] for row in rows]


async def dead_errors(connection: asyncpg.Connection) -> list[str]:
    return [row["error"] for row in await connection.fetch("SELECT error FROM pgbus.dead_letters ORDER BY position")]


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


async def test_an_api_named_like_an_attribute_of_the_bus_is_reached_through_the_client(bus: pgbus.Bus) -> None:
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
            "auth.user_deleted:tests.integration.test_api.test_a_default_listener_name_is_the_same_at_every_start.handle"
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


# -------------------------------------------------------------------------------------------------------- transactions


async def test_an_event_lives_and_dies_with_the_transaction_it_is_fired_in(
    bus: pgbus.Bus, database: str, connect: Connect
) -> None:
    heard = Heard()
    bus.auth.user_deleted.listen(lambda username: heard(username), listener_name="gone")
    connection = await connect(database)
    async with working(bus):
        transaction = connection.transaction()
        await transaction.start()
        await bus.auth.user_deleted.fire_async(username="rolled back", using=connection)
        await transaction.rollback()
        async with connection.transaction():
            await bus.auth.user_deleted.fire_async(username="committed", using=connection)
            await bus.auth.user_deleted.fire_async(username="option", bus_options={"using": connection})
        assert await heard.wait(2) == ["committed", "option"]
    assert await connection.fetchval("SELECT count(*) FROM pgbus.events") == 2


async def test_a_blocking_connection_may_be_used_even_on_the_event_loop(bus: pgbus.Bus, database: str) -> None:
    with psycopg.connect(database) as connection:
        bus.auth.user_deleted.fire(username="adam", using=connection)
        connection.rollback()
        fired = bus.auth.user_deleted.fire(username="eve", using=connection, bus_options={"key": "k"})
    assert fired.key == "k"
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT event_id, headers FROM pgbus.outbox").fetchall() == [
            (fired.event_id, {"api_version": "3"})
        ]


async def test_a_transactional_handler_writes_with_its_acknowledgement(
    bus: pgbus.Bus, database: str, connect: Connect
) -> None:
    connection = await connect(database)
    await connection.execute("CREATE TABLE page_views (uuid text PRIMARY KEY, url text)")

    async def handle_page_view(event: EventMessage, uuid: str, url: str, database: asyncpg.Connection) -> None:
        await database.execute("INSERT INTO page_views VALUES ($1, $2)", uuid, url)

    bus.auth.anything.listen(handle_page_view, listener_name="views", bus_options={"transactional": True})
    async with working(bus):
        await bus.auth.anything.fire_async(uuid="1", url="/")
        await eventually(lambda: connection.fetchval("SELECT count(*) = 1 FROM page_views"))
    assert await outcomes(connection, "views") == ["done"]


async def test_an_idempotent_handler_leaves_one_row_for_an_event_that_comes_twice(
    bus: pgbus.Bus, database: str, connect: Connect
) -> None:
    connection = await connect(database)
    await connection.execute("CREATE TABLE page_views (uuid text PRIMARY KEY, url text)")

    def handle_page_view(event: EventMessage, uuid: str, url: str) -> None:
        with psycopg.connect(database) as own:
            own.execute(
                "INSERT INTO page_views VALUES (%s, %s) ON CONFLICT (uuid) DO UPDATE SET url = %s", (uuid, url, url)
            )

    bus.auth.anything.listen(handle_page_view, listener_name="views")
    async with working(bus):
        for _ in range(2):
            await bus.auth.anything.fire_async(uuid="1", url="/")
        await eventually(lambda: _done(connection, "views", 2))
    assert await connection.fetchval("SELECT array_agg(uuid || url) FROM page_views") == ["1/"]


async def _done(connection: asyncpg.Connection, listener_name: str, count: int) -> bool:
    return await outcomes(connection, listener_name) == ["done"] * count


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_failure_that_is_only_logged_is_not_tried_again_and_the_next_event_flows(
    bus: pgbus.Bus,
    database: str,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
    is_async: bool,
) -> None:
    heard = Heard()
    loop_thread = threading.get_ident()

    def handle(username: str) -> None:
        heard((username, threading.get_ident() == loop_thread))
        if username == "bad":
            raise ValueError("no such user")

    async def handle_async(username: str) -> None:
        handle(username)

    bus.auth.user_deleted.listen(
        handle_async if is_async else handle, listener_name="gone", on_error=OnError.ACKNOWLEDGE_AND_LOG
    )
    connection = await connect(database)
    async with working(bus):
        for name in ("good", "bad", "next"):
            await bus.auth.user_deleted.fire_async(username=name)
        assert await heard.wait(3) == [("good", is_async), ("bad", is_async), ("next", is_async)]
        await eventually(lambda: _settled(connection, 3))
    assert await outcomes(connection, "gone") == ["done", "dead", "done"]
    assert await dead_errors(connection) == ["ValueError: no such user"]
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.exc_info is not None for record in errors] == [True]


async def _settled(connection: asyncpg.Connection, count: int) -> bool:
    return bool(await connection.fetchval("SELECT count(*) = $1 FROM pgbus.history", count))


async def test_a_failure_is_tried_again_and_stops_no_worker(bus: pgbus.Bus, database: str, connect: Connect) -> None:
    heard = Heard()

    def handle(username: str) -> None:
        heard(username)
        if len(heard.calls) == 1:
            raise pgbus.Retry(after=0)

    bus.auth.user_deleted.listen(handle, listener_name="gone")
    connection = await connect(database)
    async with working(bus):
        await bus.auth.user_deleted.fire_async(username="adam")
        assert await heard.wait(2) == ["adam", "adam"]
        await eventually(lambda: _settled(connection, 2))
    assert await outcomes(connection, "gone") == ["retry", "done"]


async def test_an_event_that_does_not_fit_its_handler_is_dead_at_once_and_the_next_flows(
    database: str, connect: Connect
) -> None:
    heard = Heard()

    def handle_updated(username: str, email: str) -> None:
        heard((username, email))

    connection = await connect(database)
    async with pgbus.create(database) as bus:  # it does not know the API
        bus.auth.user_updated.listen(handle_updated, listener_name="updated")
        async with working(bus):
            await bus.publish({"username": "adam", "new_email": "x"}, topic="auth.user_updated")
            await bus.publish({"username": "adam", "email": ["x"]}, topic="auth.user_updated")
            await bus.publish({"username": "eve", "email": "y"}, topic="auth.user_updated")
            assert await heard.wait(1) == [("eve", "y")]
            await eventually(lambda: _settled(connection, 3))
    [first, second] = await dead_errors(connection)
    assert "the event has no 'email' and the handler has no parameter 'new_email'" in first
    assert "its argument 'email' does not fit" in second


# ---------------------------------------------------------------------------------------------------- threads and loops


async def test_blocking_forms_work_in_threads_and_in_plain_handlers(bus: pgbus.Bus) -> None:
    heard = Heard()

    def pass_on(username: str) -> None:
        heard(username)
        if username != "last":
            bus.auth.user_deleted.fire(username="last")

    async def not_on_the_loop(username: str) -> None:
        try:
            bus.auth.user_deleted.fire(username="never")
        except pgbus.CannotBlockHere as error:
            heard(type(error))

    bus.auth.user_deleted.listen(pass_on, listener_name="pass_on")
    bus.auth.user_deleted.listen(not_on_the_loop, listener_name="not_on_the_loop")
    async with working(bus):
        await asyncio.to_thread(bus.auth.user_deleted.fire, username="first")
        calls = await heard.wait(4)
    assert sorted(map(str, calls)) == sorted(map(str, ["first", "last", *[pgbus.CannotBlockHere] * 2]))


@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_worker_that_runs_takes_up_a_new_listener(bus: pgbus.Bus, in_thread: bool) -> None:
    heard = Heard()

    def listen() -> None:
        bus.auth.user_deleted.listen(lambda username: heard(username), listener_name="late", bus_options={"since": "0"})

    async with working(bus):
        await bus.auth.user_deleted.fire_async(username="adam")
        if in_thread:
            await asyncio.to_thread(listen)
        else:
            listen()
        assert await heard.wait(1) == ["adam"]


async def test_two_buses_in_one_process_are_independent(server: Any, upgraded_template: str, database: str) -> None:
    with server.temporary_database(template=upgraded_template) as other_database:
        heard = Heard()
        async with pgbus.create(database) as one, pgbus.create(other_database) as two:
            for name, bus in (("one", one), ("two", two)):
                bus.client.register_api(AuthApi())
                bus.auth.user_deleted.listen(lambda username, name=name: heard((name, username)), listener_name="gone")
            async with working(one), working(two):
                await one.auth.user_deleted.fire_async(username="adam")
                await heard.wait(1)
                await two.auth.user_deleted.fire_async(username="eve")
                assert await heard.wait(2) == [("one", "adam"), ("two", "eve")]


async def test_an_api_listener_handles_one_event_at_a_time_unless_it_says_more(bus: pgbus.Bus) -> None:
    bus.auth.user_deleted.listen(lambda username: None, listener_name="one")
    bus.auth.user_deleted.listen(lambda username: None, listener_name="many", bus_options={"concurrency": 7})
    assert [listener.concurrency for listener in bus.listeners] == [1, 7]


# --------------------------------------------------------------------------------------------------------------- calls


class MathApi(Api):
    def __init__(self, bus: pgbus.Bus) -> None:
        self._bus = bus

    def half(self, number: int) -> float:
        if number < 0:
            raise ValueError("too little")
        return number / 2

    async def quarter(self, number: int) -> float:
        return float(await self._bus.math.half.call_async(number=number)) / 2

    def eighth(self, number: int) -> float:
        return float(self._bus.math.quarter(number=number)) / 2

    class Meta:
        name = "math"


async def test_public_methods_of_a_registered_api_are_called_through_the_bus(bus: pgbus.Bus) -> None:
    bus.client.register_api(MathApi(bus))
    async with working(bus):
        assert await bus.math.half.call_async(number=4) == 2.0
        # A procedure may call others that the same worker serves, from a thread as from the event loop.
        assert await bus.math.eighth.call_async(number=8) == 1.0
        assert await asyncio.to_thread(bus.math.half, number=4) == 2.0
        assert await asyncio.to_thread(bus.math.half.call, number=4, bus_options={"timeout": 20}) == 2.0
        assert await bus.client.call_rpc_remote("math", "half", {"number": 4}, {"returns": str | float}) == 2.0


async def test_a_call_fails_with_an_error_that_says_why(bus: pgbus.Bus) -> None:
    bus.client.register_api(MathApi(bus))
    async with working(bus):
        with pytest.raises(pgbus.LightbusWorkerError, match="too little"):
            await bus.math.half.call_async(number=-1)
        with pytest.raises(pgbus.InvalidArguments, match="nummer"):
            await bus.math.half.call_async(nummer=1)
        with pytest.raises(pgbus.LightbusTimeout, match=r"math\.third"):
            await bus.math.third.call_async(number=1)
        assert await bus.math.half.call_async(number=4) == 2.0


async def test_a_handler_may_call_a_procedure_of_its_own_worker(bus: pgbus.Bus) -> None:
    heard = Heard()
    bus.client.register_api(MathApi(bus))
    bus.auth.anything.listen(lambda event, number: heard(bus.math.half(number=number)), listener_name="halve")
    async with working(bus):
        await bus.auth.anything.fire_async(number=6)
        assert await heard.wait(1) == [3.0]


@pytest.mark.parametrize("features", [["events"], ["rpcs"], []])
async def test_a_worker_does_only_what_the_features_of_its_bus_say(
    database: str, connect: Connect, features: list[str]
) -> None:
    connection = await connect(database)
    async with pgbus.create(database, features=features) as bus:
        bus.client.register_api(MathApi(bus))
        bus.auth.user_deleted.listen(lambda username: None, listener_name="gone")
        async with working(bus):
            assert await connection.fetchval("SELECT count(*) FROM pgbus.listeners") == ("events" in features)
            if "rpcs" in features:
                assert await bus.math.half.call_async(number=4) == 2.0
            else:
                with pytest.raises(pgbus.NoWorkerAvailable):
                    await bus.math.half.call_async(number=4)


@pytest.mark.parametrize("features", ["events", ["evnets"]])
def test_a_feature_that_there_is_not_is_refused(features: Any) -> None:
    with pytest.raises(pgbus.UnsupportedUse, match="features are"):
        pgbus.create(features=features)


async def test_an_api_that_is_registered_while_the_worker_runs_is_served(bus: pgbus.Bus) -> None:
    async with working(bus):
        await asyncio.to_thread(bus.client.register_api, MathApi(bus))
        assert await bus.math.half.call_async(number=4, bus_options={"wait": True, "timeout": 20}) == 2.0


# ------------------------------------------------------------------------------------------------------------- on start


HookMaker = Callable[[Callable[[pgbus.BusClient | None], None]], Callable[..., Any]]


def _plain(note: Callable[[pgbus.BusClient | None], None]) -> Callable[[], None]:
    return lambda: note(None)


def _plain_with_client(note: Callable[[pgbus.BusClient | None], None]) -> Callable[[pgbus.BusClient], None]:
    return lambda client: note(client)


def _async(note: Callable[[pgbus.BusClient | None], None]) -> Callable[[], Awaitable[None]]:
    async def on_start() -> None:
        note(None)

    return on_start


def _async_with_client(note: Callable[[pgbus.BusClient | None], None]) -> Callable[..., Awaitable[None]]:
    async def on_start(*, client: pgbus.BusClient) -> None:
        note(client)

    return on_start


def _any(note: Callable[[pgbus.BusClient | None], None]) -> Callable[..., None]:
    def on_start(bus_client: pgbus.BusClient, extra: int = 1, **rest: object) -> None:
        note(bus_client)

    return on_start


@pytest.mark.parametrize(
    ("make", "with_client"),
    [(_plain, False), (_plain_with_client, True), (_async, False), (_async_with_client, True), (_any, True)],
)
async def test_a_start_hook_is_called_once_and_gets_the_client_if_it_takes_it(
    bus: pgbus.Bus,
    make: HookMaker,
    with_client: bool,
) -> None:
    heard, given = Heard(), []

    def note(client: pgbus.BusClient | None) -> None:
        given.append(client)
        bus.auth.user_deleted.listen(lambda username: heard(username), listener_name="gone")

    hook = make(note)
    assert bus.client.on_start()(hook) is hook
    bus.client.on_start(hook)
    async with working(bus):
        await bus.auth.user_deleted.fire_async(username="adam")
        await heard.wait(1)
    async with working(bus):
        await bus.auth.user_deleted.fire_async(username="eve")
        assert await heard.wait(2) == ["adam", "eve"]
    assert given == [bus.client if with_client else None]


async def test_what_a_start_hook_raises_ends_the_worker(bus: pgbus.Bus) -> None:
    @bus.client.on_start()
    def on_start() -> None:
        raise ValueError("not today")

    worker = make_worker(bus)
    with pytest.raises(ValueError, match="not today"):
        await worker.run()
    await worker.stop()


async def test_a_worker_may_be_stopped_while_a_start_hook_waits(bus: pgbus.Bus) -> None:
    started = asyncio.Event()

    async def on_start() -> None:
        started.set()
        await asyncio.Event().wait()

    bus.client.on_start(on_start)
    worker = make_worker(bus)
    task = asyncio.create_task(worker.run())
    await started.wait()
    await worker.stop()
    await task
    assert not worker.ready.is_set()


async def test_a_start_hook_may_fire_and_listeners_named_in_it_may_be_selected(bus: pgbus.Bus) -> None:
    heard, settled = Heard(), asyncio.Event()
    bus.telemetry.observe(lambda happening: settled.set() if isinstance(happening, Settled) else None)

    def on_start() -> None:
        for name in ("wanted", "other"):
            bus.auth.user_deleted.listen(
                lambda username, name=name: heard((name, username)), listener_name=name, bus_options={"since": "0"}
            )
        bus.auth.user_deleted.fire(username="adam")

    bus.client.on_start(on_start)
    worker = make_worker(bus, only=["wanted"])
    task = asyncio.create_task(worker.run())
    await settled.wait()
    await worker.stop()
    await task
    assert heard.calls == [("wanted", "adam")]


async def test_a_worker_told_to_run_a_listener_that_is_not_there_says_so(bus: pgbus.Bus) -> None:
    with pytest.raises(pgbus.ConfigurationError, match="no listener, procedure or task named 'nobody'"):
        await make_worker(bus, only=["nobody"]).run()
