"""Whoever publishes or calls, the tree of what came of one request is whole."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

import pgbus
from pgbus.contrib.sqlalchemy import OutboxEvent
from pgbus.database.statements import maintenance
from pgbus.database.store import Store
from pgbus.errors import RemoteError
from tests.support import eventually
from tests.support.workers import Inbox, open_bus, running, until_idle

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.fixture
async def bus(database: str) -> AsyncIterator[pgbus.Bus]:
    async with open_bus(database, service_name="shop") as bus:
        yield bus


async def tree(connection: asyncpg.Connection, id_: object) -> list[tuple[int, str, str]]:
    rows = await connection.fetch("SELECT depth, kind, name FROM pgbus.event_tree($1)", UUID(str(id_)))
    return [tuple(row) for row in rows]


async def test_five_services_and_one_request_make_one_tree(database: str, connection: asyncpg.Connection) -> None:
    done = Inbox[pgbus.Context]()
    async with AsyncExitStack() as stack:
        names = ("orders", "stock", "payments", "mail", "reports")
        orders, stock, payments, mail, reports = [
            await stack.enter_async_context(open_bus(database, service_name=name)) for name in names
        ]

        @stock.listener("orders.placed", name="reserve")
        async def reserve(event: dict[str, Any]) -> None:
            await stock.publish_many([{"n": 1}, {"n": 2}], topic="stock.reserved")

        @payments.listener("orders.placed", name="charge")
        async def charge(event: dict[str, Any], context: pgbus.Context) -> None:
            if await payments.call("bank.charge", {"amount": 3}):
                await context.publish({}, topic="payments.charged")

        @payments.procedure("bank.charge")
        def bank_charge(amount: int) -> bool:  # a plain function, in a thread
            payments.publish_sync({"amount": amount}, topic="bank.charged")
            return True

        @mail.listener("payments.charged", name="receipt")
        async def receipt(event: dict[str, Any]) -> None:
            await asyncio.create_task(mail.publish({}, topic="mail.sent"))

        @reports.listener("**", name="reports")
        def report(event: dict[str, Any], context: pgbus.Context) -> None:
            done.put(context)

        for bus in (stock, payments, mail, reports):
            await stack.enter_async_context(running(bus))
        request = {"x-correlation-id": "request-7", "traceparent": TRACEPARENT, "tracestate": "vendor=1"}
        with pgbus.caused_by(pgbus.Cause.of_request(request)):
            placed = await orders.publish({}, topic="orders.placed")
        contexts = await done.take(6)
    found = await tree(connection, placed.event_id)
    assert found == [
        (0, "event", "orders.placed"),
        *sorted(found[1:], key=found.index),
    ]
    assert sorted(found) == [
        (0, "event", "orders.placed"),
        (1, "call", "bank.charge"),
        (1, "event", "payments.charged"),
        (1, "event", "stock.reserved"),
        (1, "event", "stock.reserved"),
        (2, "event", "bank.charged"),
        (2, "event", "mail.sent"),
    ]
    assert {context.correlation_id for context in contexts} == {"request-7"}
    assert {context.cause.traceparent.split("-")[1] for context in contexts} == {TRACE}
    assert {context.cause.tracestate for context in contexts} == {"vendor=1"}
    # From any of its nodes it is the same tree, and by the request's own id.
    for context in contexts:
        assert await tree(connection, context.event.event_id) == found
    by_request = await connection.fetch("SELECT depth, kind, name FROM pgbus.correlation_tree('request-7')")
    assert [tuple(row) for row in by_request] == found
    rows = await connection.fetch("SELECT name, actor FROM pgbus.event_tree($1)", placed.event_id)
    actors = {row["name"]: row["actor"] for row in rows}
    assert actors["orders.placed"] == "orders"
    assert actors["stock.reserved"] == "stock"


async def test_a_root_carries_nothing_and_is_its_own_correlation(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    heard = Inbox[pgbus.Context]()

    @bus.listener("orders.placed", name="hear")
    async def hear(event: dict[str, Any], context: pgbus.Context) -> None:
        heard.put(context)
        await bus.publish({}, topic="orders.heard")

    @bus.listener("orders.heard", name="hear_again")
    async def hear_again(event: dict[str, Any], context: pgbus.Context) -> None:
        heard.put(context)

    async with running(bus):
        event = await bus.publish({}, topic="orders.placed")
        root, child = await heard.take(2)
        await until_idle(connection)
    assert root.event.headers == {}
    assert root.correlation_id == child.correlation_id == child.causation_id == str(event.event_id)
    assert root.causation_id is None
    trace = f"00-{event.event_id.hex}-{event.event_id.hex[16:]}-01"
    assert root.cause.traceparent == child.event.headers["traceparent"] == trace
    assert child.cause.traceparent != trace
    assert await tree(connection, child.event.event_id) == [(0, "event", "orders.placed"), (1, "event", "orders.heard")]
    assert await connection.fetchval("SELECT count(*) FROM pgbus.causes") == 1


async def test_a_run_and_a_call_are_roots_and_stay_in_the_tree_when_they_are_pruned(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    published = Inbox[UUID]()

    @bus.client.every(seconds=60, also_run_immediately=True, name="nightly")
    async def nightly(run: pgbus.TaskContext) -> None:
        await bus.call("shop.count")
        published.put((await bus.publish({}, topic="shop.counted")).event_id)

    @bus.procedure("shop.count")
    async def count() -> None:
        await bus.publish({}, topic="shop.counting")

    async with running(bus):
        [of_run] = await published.take(1)
        call = await bus.call("shop.count")
        assert call is None
        await until_idle(connection)
    expected = [
        (0, "run", "shop-nightly"),
        (1, "call", "shop.count"),
        (2, "event", "shop.counting"),
        (1, "event", "shop.counted"),
    ]
    assert await tree(connection, of_run) == expected
    root_call = await connection.fetchval("SELECT call_id FROM pgbus.rpc_calls WHERE headers IS NULL")
    of_call = [(0, "call", "shop.count"), (1, "event", "shop.counting")]
    assert await tree(connection, root_call) == of_call
    await prune(connection)
    assert await connection.fetchval("SELECT count(*) FROM pgbus.rpc_calls") == 0
    assert await connection.fetchval("SELECT count(*) FROM pgbus.schedule_history") == 0
    assert await tree(connection, of_run) == expected
    assert await tree(connection, root_call) == of_call


async def prune(connection: asyncpg.Connection) -> None:
    await connection.execute("UPDATE pgbus.rpc_requests SET deadline = now() - interval '1 day'")
    store = Store(connection, namespace="pgbus")
    await asyncio.sleep(0.01)  # ids of calls have milliseconds
    await maintenance.prune_calls(store, retention=0, batch=100)
    await maintenance.prune_schedule_runs(store, retention=0, batch=100)


async def test_whatever_publishes_in_a_handler_is_caused_by_its_event(
    bus: pgbus.Bus, database: str, connection: asyncpg.Connection
) -> None:
    ended = Inbox[bool]()
    engine = create_engine(database.replace("postgresql://", "postgresql+psycopg://"))

    def publish_everywhere() -> None:
        bus.publish_sync({}, topic="shop.sync")
        bus.publish_many_sync([{}, {}], topic="shop.bulk")
        with psycopg.connect(database) as own:
            bus.publish_sync({}, topic="shop.psycopg", using=own)
            bus.publish_sync({}, topic="shop.delayed", using=own, delay=0.001)
            bus.publish_sync({}, topic="shop.once", using=own, dedup_key="once")
        with Session(engine) as session, session.begin():
            bus.publish_sync({}, topic="shop.session", using=session)
            session.add(OutboxEvent({}, topic="shop.added"))
            bus.publish_sync({}, topic="shop.own_headers", using=session, headers={"tenant": "7"})

    @bus.listener("shop.asked", name="everywhere")
    def everywhere(event: dict[str, Any]) -> None:
        publish_everywhere()
        ended.put(True)

    @bus.listener("shop.asked", name="in_its_transaction", transactional=True)
    async def in_its_transaction(event: dict[str, Any], connection: asyncpg.Connection, context: pgbus.Context) -> None:
        await context.publish({}, topic="shop.transactional")
        await asyncio.to_thread(bus.publish_sync, {}, topic="shop.thread")

    @bus.listener("shop.asked", name="batches", batch=True)
    async def batches(events: list[dict[str, Any]]) -> None:
        await bus.publish({}, topic="shop.batched")

    try:
        async with running(bus):
            asked = await bus.publish({}, topic="shop.asked")
            await ended.take(1)
            await until_idle(connection)
            await until_logged(connection, 13)
    finally:
        engine.dispose()
    found = await tree(connection, asked.event_id)
    assert sorted(name for depth, _, name in found if depth == 1) == [
        "shop.added", "shop.batched", "shop.bulk", "shop.bulk", "shop.delayed", "shop.once", "shop.own_headers",
        "shop.psycopg", "shop.session", "shop.sync", "shop.thread", "shop.transactional",
    ]  # fmt: skip
    assert found[0] == (0, "event", "shop.asked")
    assert await connection.fetchval("SELECT headers->>'tenant' FROM pgbus.events WHERE topic = 'shop.own_headers'")


async def until_logged(connection: asyncpg.Connection, count: int) -> None:
    async def logged() -> bool:
        return bool(await connection.fetchval("SELECT count(*) >= $1 FROM pgbus.events", count))

    await eventually(logged)


async def test_a_callers_own_headers_come_before_the_ambient_ones(bus: pgbus.Bus) -> None:
    with pgbus.caused_by(pgbus.Cause(correlation_id="ambient")):
        event = await bus.publish({}, topic="shop.sold", headers={"correlation_id": "mine", "big": "x" * 8000})
    assert event.correlation_id == "mine"
    assert pgbus.current_cause() is None


async def test_what_publishes_in_sql_is_named_by_its_user_and_may_name_its_cause(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    async with running(bus):
        cause = await bus.publish({}, topic="shop.sold")
        await connection.execute(
            """INSERT INTO pgbus.outbox (topic, headers)
               VALUES ('sql.root', NULL),
                      ('sql.child', jsonb_build_object('correlation_id', $1::text, 'causation_id', $1)),
                      ('sql.odd', '{"correlation_id": "", "causation_id": "no uuid"}'),
                      ('sql.long', jsonb_build_object('correlation_id', repeat('x', 100000)))""",
            str(cause.event_id),
        )
        await until_logged(connection, 5)
    found = await connection.fetch("SELECT topic, published_by FROM pgbus.events")
    rows = {row["topic"]: row["published_by"] for row in found}
    user = await connection.fetchval("SELECT current_user::text")
    assert rows == {"shop.sold": "shop", **dict.fromkeys(("sql.root", "sql.child", "sql.odd", "sql.long"), user)}
    assert await tree(connection, cause.event_id) == [(0, "event", "shop.sold"), (1, "event", "sql.child")]
    odd = await connection.fetchval("SELECT event_id FROM pgbus.events WHERE topic = 'sql.odd'")
    assert await tree(connection, odd) == [(0, "event", "sql.odd")]


async def test_causes_in_a_circle_end(bus: pgbus.Bus, connection: asyncpg.Connection) -> None:
    one, two = uuid4(), uuid4()
    async with running(bus):
        for id_, cause in ((one, two), (two, one)):
            await bus.publish(
                {}, topic="shop.circle", event_id=id_, headers={"correlation_id": "c", "causation_id": str(cause)}
            )
        await bus.publish({}, topic="shop.end", headers={"correlation_id": "c"})
        await until_logged(connection, 3)
    assert await tree(connection, one) == [(0, "event", "shop.end")]


async def test_a_thread_of_ones_own_takes_the_cause_along_by_hand(bus: pgbus.Bus) -> None:
    cause = pgbus.Cause(correlation_id="mine")
    found: list[pgbus.Cause | None] = []

    def work() -> None:
        with pgbus.caused_by(cause):
            found.append(pgbus.current_cause())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [cause]


async def test_failures_of_procedures_and_tasks_are_logged_with_their_correlation(
    bus: pgbus.Bus, caplog: pytest.LogCaptureFixture
) -> None:
    @bus.procedure("bank.charge")
    async def charge() -> None:
        raise ValueError("no money")

    @bus.client.every(seconds=3600, also_run_immediately=True, name="nightly")
    async def nightly() -> None:
        raise ValueError("no night")

    async with running(bus):
        with pgbus.caused_by(pgbus.Cause.of_request({"x-request-id": "request-9"})), pytest.raises(RemoteError):
            await bus.call("bank.charge")
        await eventually(lambda: any("the task failed" in record.message for record in caplog.records), 60)
    records = [record.__dict__ for record in caplog.records]
    found = {name: one for one in records for name in ("procedure", "run_id") if name in one}
    assert found["procedure"]["correlation_id"] == "request-9"
    assert found["procedure"]["procedure"] == "bank.charge"
    assert found["run_id"]["correlation_id"] == found["run_id"]["run_id"]
    assert found["run_id"]["schedule_name"] == "shop-nightly"
