"""What the group roles may do suffices: tests of the core, run once more by buses whose users are members of a role.

What the tests themselves look at, and set up, is the owner's, as before.
"""

# ruff: noqa: F401 - imported for pytest to run them here, with the fixtures of this file

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from functools import partial

import asyncpg
import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from pgbus import Api, Event, migrate
from pgbus.errors import PrivilegeError
from pgbus.testing.databases import DatabaseServer
from tests.conftest import Connect
from tests.integration.conftest import Invoke
from tests.integration.rpc.test_endings import (
    test_a_call_that_nobody_serves_fails_at_once,
    test_cancelling_the_caller_cancels_the_running_procedure,
)
from tests.integration.rpc.test_errors import test_what_a_procedure_raises_comes_with_type_and_traceback
from tests.integration.rpc.test_results import test_a_call_brings_the_result_of_an_async_and_of_a_plain_function
from tests.integration.schedules.test_running import (
    test_an_interval_runs_again_and_again_at_its_distance_and_is_in_the_history,
    test_three_workers_run_each_interval_once,
)
from tests.integration.test_bus import test_blocking_calls_work_in_plain_threads
from tests.integration.test_delivery import (
    test_a_failed_attempt_comes_back_and_the_history_keeps_every_attempt,
    test_a_retried_dead_letter_is_delivered_again_from_its_first_attempt,
    test_each_listener_gets_its_own_copy_and_history_tells_of_both,
    test_the_last_failed_attempt_makes_a_dead_letter_and_others_go_on,
    test_two_workers_share_the_events_of_one_listener_each_handled_once,
)
from tests.integration.test_delivery_claims import (
    test_a_few_events_go_to_an_idle_listener_or_into_empty_lanes_without_a_claim,
)
from tests.integration.test_delivery_stops import (
    test_another_worker_leads_as_soon_as_the_leader_has_stopped,
    test_the_claims_of_a_worker_whose_session_has_ended_are_freed_at_once,
)
from tests.integration.test_listeners import (
    test_a_new_listener_may_start_at_an_instant,
    test_a_paused_listener_gets_its_events_only_after_it_is_resumed,
    test_a_reset_listener_hears_the_log_again_or_skips_what_waits,
)
from tests.integration.test_ordered import test_each_key_keeps_its_order_with_several_workers_and_failing_events
from tests.integration.test_scheduling import (
    busy_housekeeping,
    inbox,
    test_a_second_event_under_a_dedup_key_is_not_published,
    test_after_a_period_events_and_history_go_into_the_next_partition,
    test_an_event_is_cancelled_until_it_is_due,
    test_an_event_with_a_delay_arrives_when_it_is_due_and_not_before,
)
from tests.integration.transactional.conftest import connection
from tests.integration.transactional.test_settling import test_writes_and_settlement_are_of_one_transaction
from tests.migrations.conftest import PASSWORD, dsn_of_user
from tests.support import eventually
from tests.support.workers import open_bus, running

USERS = {"worker": "pgbus_worker", "web": "pgbus_publisher, pgbus_caller", "auditor": "pgbus_reader", "stranger": ""}


class ShopApi(Api):
    opened = Event(parameters=("n",))

    class Meta:
        name = "shop"


@pytest.fixture
def owners(server: DatabaseServer, upgraded_template: str) -> Iterator[str]:
    """DSN of a fresh database, as its owner, in which there are members of the roles."""
    with server.temporary_database(template=upgraded_template) as dsn:
        migrate.grant_roles(dsn)
        asyncio.run(_make_users(dsn))
        yield dsn
    asyncio.run(_drop_users(server.dsn))


async def _make_users(dsn: str) -> None:
    owner = await asyncpg.connect(dsn)
    await owner.execute("GRANT ALL ON SCHEMA public TO PUBLIC; ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC")
    for user, roles in USERS.items():
        await owner.execute(f"CREATE ROLE test_{user} LOGIN PASSWORD '{PASSWORD}'")
        if roles:
            await owner.execute(f"GRANT {roles} TO test_{user}")
    await owner.close()


async def _drop_users(dsn: str) -> None:
    owner = await asyncpg.connect(dsn)
    for user in USERS:
        await owner.execute(f"DROP ROLE IF EXISTS test_{user}")
    await owner.close()


@pytest.fixture
def database(owners: str) -> str:
    """What buses connect with."""
    return dsn_of_user(owners, "test_worker")


@pytest.fixture
async def connect(owners: str) -> AsyncIterator[Connect]:
    """`await connect(dsn)` is the owner's connection, whoever's DSN that is."""
    opened: list[asyncpg.Connection] = []

    async def open_connection(_: str) -> asyncpg.Connection:
        opened.append(await asyncpg.connect(owners))
        return opened[-1]

    yield open_connection
    for one in opened:
        one.terminate()


async def test_a_web_process_publishes_in_its_transactions_and_calls(
    owners: str, database: str, connect: Connect
) -> None:
    web = dsn_of_user(owners, "test_web")
    async with open_bus(database) as shop, open_bus(web) as bus:

        @shop.procedure("sums.add")
        async def add(a: int, b: int) -> int:
            return a + b

        async with running(shop):
            await bus.publish({"n": 1}, topic="a.b", key="k", headers={"a": "b"}, dedup_key="1")
            await bus.publish({"n": 1}, topic="a.b", dedup_key="1")
            await bus.publish_many([{"n": 2}, {"n": 3}], topic="a.b")
            connection = await asyncpg.connect(web)
            async with connection.transaction():
                await bus.publish({"n": 4}, topic="a.b", using=connection, dedup_key="4")
            await connection.close()
            with psycopg.connect(web) as blocking:
                bus.publish_sync({"n": 5}, topic="a.b", using=blocking, delay=0.01)
            engine = _engine(web)
            async with engine.begin() as transaction:
                await bus.publish({"n": 6}, topic="a.b", using=transaction)
            await engine.dispose()
            assert await bus.call("sums.add", {"a": 1, "b": 2}) == 3
            owner = await connect(owners)
            await eventually(lambda: owner.fetchval("SELECT count(*) = 6 FROM pgbus.events"))


async def test_a_publisher_says_which_schema_holds_and_not_when(owners: str, connect: Connect) -> None:
    web = dsn_of_user(owners, "test_web")
    owner = await connect(owners)
    since = datetime(2000, 1, 1, tzinfo=UTC)
    for _ in range(2):
        async with open_bus(web) as bus:
            bus.client.register_api(ShopApi())
            await bus.shop.opened.fire_async(n=1)
            since = await eventually(
                partial(owner.fetchval, "SELECT max(published_at) FROM pgbus.schemas WHERE published_at > $1", since)
            )
    publisher = await asyncpg.connect(web)
    for column in ("published_at", "last_seen_at", "schema"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await publisher.execute(f"UPDATE pgbus.schemas SET {column} = DEFAULT")
    await publisher.close()


def _engine(dsn: str) -> AsyncEngine:
    """SQLAlchemy's, with the DSN left to the driver."""
    return create_async_engine("postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(dsn))


@pytest.mark.parametrize(
    "command",
    [
        "status", "events", "inspect", "inspect --calls", "inspect --validate", "dead list", "listeners list",
        "schedules list", "schema dump", "db check",
    ],
)  # fmt: skip
async def test_an_auditor_sees_what_the_commands_show(owners: str, invoke: Invoke, command: str) -> None:
    result = await invoke(*command.split(), dsn=dsn_of_user(owners, "test_auditor"))
    assert (result.exit_code, result.stderr.replace("no events\n", "").replace("no calls\n", "")) in ((0, ""), (1, ""))


async def test_an_auditor_reads_what_the_guide_has_watched(owners: str) -> None:
    auditor = await asyncpg.connect(dsn_of_user(owners, "test_auditor"))
    age = "SELECT extract(epoch FROM clock_timestamp() - min(published_at)) FROM pgbus.outbox WHERE deliver_at IS NULL"
    for query in (age, "SELECT * FROM pgbus.listener_lag", "SELECT * FROM pgbus.event_history"):
        await auditor.fetch(query)
    await auditor.close()


@pytest.mark.parametrize(
    ("user", "command", "role"),
    [
        ("web", "status", "pgbus_reader"),
        ("web", "events", "pgbus_reader"),
        ("auditor", "publish a.b {}", "pgbus_publisher"),
        ("auditor", "call sums.add", "pgbus_caller"),
        ("auditor", "listeners pause mail", "pgbus_operator"),
        ("auditor", "dead retry --all --yes", "pgbus_operator"),
        ("stranger", "status", "pgbus_reader"),
        ("stranger", "publish a.b {}", "pgbus_publisher"),
        ("stranger", "call sums.add", "pgbus_caller"),
    ],
)
async def test_a_command_names_the_role_that_has_the_right(
    owners: str, invoke: Invoke, connect: Connect, user: str, command: str, role: str
) -> None:
    await (await connect(owners)).execute("INSERT INTO pgbus.listeners (listener_name) VALUES ('mail')")
    result = await invoke(*command.split(), dsn=dsn_of_user(owners, f"test_{user}"))
    assert result.exit_code == 1, result.output
    assert role in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("user", ["web", "auditor", "stranger"])
async def test_a_worker_that_may_not_run_names_the_role(owners: str, user: str) -> None:
    async with open_bus(dsn_of_user(owners, f"test_{user}")) as bus:

        @bus.listener("a.b", name="mail")
        async def handle(event: object) -> None: ...

        with pytest.raises(PrivilegeError, match="pgbus_worker"):
            async with running(bus):
                pass


async def test_publishing_with_a_connection_of_ones_own_names_the_role(owners: str, database: str) -> None:
    auditor = dsn_of_user(owners, "test_auditor")
    async with open_bus(database) as bus:
        connection = await asyncpg.connect(auditor)
        async with connection.transaction():
            with pytest.raises(PrivilegeError, match="pgbus_publisher"):
                await bus.publish({}, topic="a.b", using=connection)
        await connection.close()
        with psycopg.connect(auditor) as blocking, pytest.raises(PrivilegeError, match="pgbus_publisher"):
            bus.publish_sync({}, topic="a.b", using=blocking)
        engine = _engine(auditor)
        async with engine.connect() as transaction:
            with pytest.raises(PrivilegeError, match="pgbus_publisher"):
                await bus.publish({}, topic="a.b", using=transaction)
        await engine.dispose()
    async with open_bus(auditor) as bus:
        with pytest.raises(PrivilegeError, match="pgbus_publisher"):
            await bus.publish({}, topic="a.b")
        with pytest.raises(PrivilegeError, match="pgbus_caller"):
            await bus.call("sums.add")
