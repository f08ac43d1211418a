"""The Django app: publishing in Django's transactions, and listeners that use its models."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import OperationalError, connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import AsyncClient, Client, override_settings
from django.test.utils import CaptureQueriesContext

from pgbus.contrib.django import apublish, bus, publish, publish_many
from pgbus.contrib.django.connections import close_old_connections_around
from pgbus.contrib.django.models import Attempt, DeadLetter, Event, Published
from pgbus.contrib.django.settings import dsn_of, read_settings
from pgbus.errors import ConfigurationError, ConnectionUnusableError, NoTransactionWarning, TransactionAbortedError
from pgbus.testing import deliver_now_sync
from tests.support.django_project.warehouse.events import ItemStored
from tests.support.django_project.warehouse.models import Arrival, Item

pytestmark = pytest.mark.usefixtures("django_database")


class RolledBack(Exception):
    pass


def published() -> list[str]:
    """The names in the events that are committed, in their order, as another connection sees them."""

    async def fetch() -> list[str]:
        observer = await asyncpg.connect(dsn_of("default"))
        try:
            query = "SELECT payload ->> 'name' FROM pgbus.outbox ORDER BY id"
            return [row[0] for row in await observer.fetch(query)]
        finally:
            await observer.close()

    return asyncio.run(fetch())


# --------------------------------------------------------------------------------------------------------- publishing


def test_an_event_exists_if_and_only_if_atomic_commits() -> None:
    with transaction.atomic():
        Item.objects.create(name="kept")
        publish(ItemStored("kept"))
        assert published() == []
    with suppress(RolledBack), transaction.atomic():
        publish(ItemStored("gone"))
        raise RolledBack
    assert published() == ["kept"]


def test_a_savepoint_that_is_rolled_back_takes_its_event_along() -> None:
    with transaction.atomic():
        publish(ItemStored("outer"))
        with suppress(RolledBack), transaction.atomic():
            publish(ItemStored("inner"))
            raise RolledBack
        publish_many([ItemStored("many"), ItemStored("more")])
    assert published() == ["outer", "many", "more"]


def test_an_alias_has_a_transaction_of_its_own() -> None:
    with transaction.atomic(using="second"):
        publish(ItemStored("second"), using="second")
        with transaction.atomic():
            publish(ItemStored("first"))
        assert published() == ["first"]
        transaction.set_rollback(True, using="second")
    assert published() == ["first"]


FORMS: dict[str, Callable[[], Any]] = {
    "the proxy": lambda: connection,
    "the connection": lambda: connections["default"],
    "the alias": lambda: "default",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_open", [False, True])
def test_a_bus_takes_what_stands_for_a_connection_also_before_it_is_open(form: str, is_open: bool) -> None:
    connection.ensure_connection() if is_open else connection.close()
    with transaction.atomic():
        message = bus.publish_sync(ItemStored("sync"), using=FORMS[form]())
        bus.publish_sync({"name": "later"}, topic="warehouse.other", delay=60, using=FORMS[form]())
        assert published() == []
    assert published() == ["sync", "later"]
    assert Published.objects.get(topic="warehouse.item_stored").event_id == message.event_id


@pytest.mark.parametrize("form", ["the proxy", "the alias"])
def test_an_awaited_publish_goes_where_django_runs_the_queries_of_async_code(form: str) -> None:
    # The view's own thread has the transaction, and async code that it waits for joins it.
    with transaction.atomic():
        async_to_sync(bus.publish)(ItemStored("joined"), using=FORMS[form]())
        assert published() == []
    assert published() == ["joined"]


def test_events_can_be_cancelled_and_deduplicated_on_djangos_connection() -> None:
    with transaction.atomic():
        first = publish(ItemStored("once"), dedup_key="k", delay=60)
        again = publish(ItemStored("twice"), dedup_key="k")
        assert again.event_id == first.event_id
        assert bus.cancel_sync(first.event_id, using="default")
        assert not bus.cancel_sync(first.event_id, using=connection)
    assert published() == []


def test_outside_of_atomic_an_event_is_published_at_once_with_a_warning() -> None:
    with pytest.warns(NoTransactionWarning, match=r"transaction\.atomic\(using='default'\)"):
        publish(ItemStored("alone"))
    assert published() == ["alone"]
    connection.close()
    with pytest.warns(NoTransactionWarning):
        publish(ItemStored("not open yet"))


def test_autocommit_off_is_a_transaction() -> None:
    transaction.set_autocommit(False)
    publish(ItemStored("kept"))
    assert published() == []
    transaction.commit()
    transaction.set_autocommit(True)
    assert published() == ["kept"]


def test_require_transaction_refuses_an_event_outside_of_atomic() -> None:
    with pytest.raises(ConnectionUnusableError, match=r"within `with transaction\.atomic"):
        publish(ItemStored("refused"), require_transaction=True)
    with pytest.raises(ConnectionUnusableError):
        publish_many([ItemStored("refused")], require_transaction=True)
    with transaction.atomic():
        publish(ItemStored("kept"), require_transaction=True)
    assert published() == ["kept"]


def test_an_aborted_transaction_is_told_and_can_be_rolled_back() -> None:
    with transaction.atomic():
        with pytest.raises(Exception, match="syntax"), connection.cursor() as cursor:
            cursor.execute("nonsense")
        with pytest.raises(TransactionAbortedError):
            publish(ItemStored("refused"))
        transaction.set_rollback(True)
    with transaction.atomic():
        transaction.set_rollback(True)
        with pytest.raises(TransactionAbortedError):
            publish(ItemStored("refused"))
        transaction.set_rollback(True)
    assert published() == []


@pytest.mark.parametrize(("using", "message"), [("nowhere", "not the alias"), (connection.creation, "cannot be used")])
def test_what_is_no_database_of_django_is_refused(using: Any, message: str) -> None:
    with pytest.raises(ConnectionUnusableError, match=message):
        bus.publish_sync(ItemStored("refused"), using=using)


def test_publishing_is_one_query_that_django_counts() -> None:
    with transaction.atomic(), CaptureQueriesContext(connection) as queries:
        publish(ItemStored("counted"))
    assert len(queries) == 1
    assert "INSERT INTO" in queries[0]["sql"]


# -------------------------------------------------------------------------------------------------------------- views


@pytest.fixture
def atomic_requests() -> Any:
    connections.settings["default"]["ATOMIC_REQUESTS"] = True
    yield
    connections.settings["default"]["ATOMIC_REQUESTS"] = False


@pytest.mark.usefixtures("atomic_requests")
def test_atomic_requests_hold_the_row_and_the_event_together() -> None:
    client = Client(raise_request_exception=False)
    assert client.get("/items", {"name": "kept"}).status_code == 200
    assert client.get("/items", {"name": "gone", "fail": ""}).status_code == 500
    assert published() == ["kept"]
    assert [item.name for item in Item.objects.all()] == ["kept"]


def test_an_async_view_publishes_with_rows_in_a_function_that_it_awaits() -> None:
    async def ask() -> None:
        client = AsyncClient()
        assert (await client.get("/aitems", {"name": "kept"})).status_code == 200
        with pytest.warns(NoTransactionWarning):
            assert (await client.get("/aitems", {"name": "alone", "alone": ""})).status_code == 200
        with pytest.raises(ConnectionUnusableError):
            await apublish(ItemStored("refused"), require_transaction=True)
        await sync_to_async(connections.close_all)()

    asyncio.run(ask())
    assert published() == ["kept", "alone"]


# ---------------------------------------------------------------------------------------------------------- listeners


def arrivals(item: str) -> list[str]:
    return sorted(arrival.listener for arrival in Arrival.objects.filter(item=item))


def test_a_worker_runs_the_listeners_of_each_app_with_their_models() -> None:
    with transaction.atomic():
        publish(ItemStored("bolt"))
    deliver_now_sync(bus)
    assert arrivals("bolt") == ["count_item", "note_count", "note_item", "note_item_async"]
    assert Attempt.objects.filter(outcome="done").count() == 4


def test_a_transactional_listener_that_fails_leaves_neither_rows_nor_events() -> None:
    with transaction.atomic():
        publish(ItemStored("uncountable"))
    deliver_now_sync(bus, raise_errors=False)
    assert arrivals("uncountable") == ["note_item", "note_item_async"]
    letter = DeadLetter.objects.get()
    assert (letter.listener_name, letter.attempts) == ("count_item", 1)
    assert not Event.objects.filter(topic="warehouse.item_counted").exists()


def test_a_transactional_listener_gets_djangos_connection_if_it_asks() -> None:
    seen = []

    def handle(event: ItemStored, connection: BaseDatabaseWrapper) -> None:
        seen.append((connection.alias, connection.in_atomic_block, connection is connections["default"]))
        if event.name == "taken back":
            Arrival.objects.create(item=event.name, listener="handle")
            transaction.set_rollback(True)

    bus.listener(ItemStored, name="with_connection", transactional=True, retry=1)(handle)
    try:
        with transaction.atomic():
            publish_many([ItemStored("given"), ItemStored("taken back")])
        attempts = deliver_now_sync(bus, raise_errors=False)
    finally:
        bus.registry.listeners._by_name.pop("with_connection")
    assert seen == [("default", True, True)] * 2
    errors = [attempt.error for attempt in attempts if attempt.listener_name == "with_connection"]
    assert sum(error is not None for error in errors) == 1
    assert "handle" not in arrivals("taken back")


def test_an_async_function_cannot_have_djangos_transaction() -> None:
    async def handle(event: ItemStored) -> None:
        pass

    with pytest.raises(ConfigurationError, match="needs a plain function"):
        bus.listener(ItemStored, name="async_in_atomic", transactional=True)(handle)


def test_a_connection_closed_by_the_server_is_reopened_for_the_next_handler() -> None:
    def handle() -> int:
        return int(Arrival.objects.count())

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        [(pid,)] = cursor.fetchall()
    with connections["second"].cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    with pytest.raises(OperationalError):
        handle()
    assert close_old_connections_around(None, handle) == 0


# ----------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"DSN": "postgresql://"}, "name one of DATABASES as DATABASE"),
        ({"DATABASE": "nowhere"}, "not an alias of DATABASES: default, second"),
        ("pgbus", "must be a dict"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting: object, message: str) -> None:
    with override_settings(PGBUS=setting), pytest.raises(ConfigurationError, match=message):
        read_settings()


def test_the_dsn_has_the_options_of_libpq_and_no_others() -> None:
    place = connections.settings["second"]
    place["OPTIONS"] = {"sslmode": "prefer", "isolation_level": 2, "server_side_binding": True}
    place["PASSWORD"] = "it's a 'secret' \\ of 100%"
    try:
        dsn = dsn_of("second")
    finally:
        place["OPTIONS"] = {}
    assert "sslmode=prefer" in dsn
    assert "isolation" not in dsn
    assert "it%27s%20a%20%27secret%27%20%5C%20of%20100%25" in dsn


def test_nothing_warns_where_the_app_is_set_up() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from django.core.management import call_command

        call_command("check", verbosity=0)
        call_command("makemigrations", "--check", verbosity=0)
