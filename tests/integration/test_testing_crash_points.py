"""Crash tests of users' handlers: planted bugs are found, and sound handlers bear every crash."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import asyncpg
import psycopg
import pytest

import pgbus
from pgbus.testing import BusUnderTest
from pgbus.testing.crashes import CrashPoints, CrashReport
from tests.examples.documents import outline, shown
from tests.support import ROOT
from tests.support.waiting import PATIENCE

TABLES = """
CREATE TABLE counted (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, order_id int, at timestamptz DEFAULT now());
CREATE TABLE stock (item int PRIMARY KEY, amount int NOT NULL);
CREATE TABLE seen (event_id uuid PRIMARY KEY);
INSERT INTO stock VALUES (1, 10), (2, 0);
"""


@pgbus.event("orders.placed")
@dataclass
class OrderPlaced:
    order_id: int


Connection = asyncpg.Connection


async def make_tables(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(TABLES)
    await connection.close()


@pytest.fixture
def kill(pgbus_crash_points: CrashPoints) -> Callable[..., CrashReport]:
    """Runs the crash test of listener `h` with an order."""

    def run(**options: object) -> CrashReport:
        limit = {"timeout": 2 * PATIENCE}  # four processes at once, and each waits for the death of another one
        return pgbus_crash_points.run("h", OrderPlaced(7), prepare=make_tables, **limit, **options)  # type: ignore[arg-type]

    return run


async def open_own(bus: pgbus.Bus) -> Connection:
    return await asyncpg.connect(bus.config.dsn)


def whats(report: CrashReport) -> set[tuple[str, str]]:
    return {(finding.kind, finding.where) for finding in report.findings}


# ----------------------------------------------------------------------------------------------------- sound handlers


def test_a_transactional_handler_of_ten_statements_bears_every_crash(
    pgbus_bus: BusUnderTest, kill: Callable[..., CrashReport]
) -> None:
    @pgbus_bus.listener(name="h", transactional=True)
    async def h(order: OrderPlaced, connection: Connection) -> None:
        for _ in range(4):
            await connection.execute("INSERT INTO counted (order_id) VALUES ($1)", order.order_id)
            await connection.execute("UPDATE stock SET amount = amount - 1 WHERE item = 1")
        await connection.fetch("SELECT * FROM stock")
        await pgbus_bus.publish({"order_id": order.order_id}, topic="orders.counted", using=connection)

    report = kill()
    assert report.ok, str(report)
    statements = [point.what for point in report.points if point.when == "before"]
    assert statements == [
        *["INSERT INTO counted (order_id) VALUES ($1)", "UPDATE stock SET amount = amount - 1 WHERE item = 1"] * 4,
        "SELECT * FROM stock",
        "pgbus's insert_event",
        "pgbus's settle_done",
        "COMMIT;",
    ]
    assert [point.number for point in report.points] == list(range(1, 25))
    assert not report.not_reached


def test_a_blocking_handler_with_psycopg_is_killed_at_its_own_statements(
    pgbus_bus: BusUnderTest, kill: Callable[..., CrashReport]
) -> None:
    @pgbus_bus.listener(name="h", transactional=True)
    def h(order: OrderPlaced, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        connection.execute("INSERT INTO counted (order_id) VALUES (%s)", [order.order_id])

    report = kill()
    assert report.ok, str(report)
    statements = [point.what for point in report.points if point.when == "before"]
    assert "INSERT INTO counted (order_id) VALUES ($1)" in statements
    assert statements[-2:] == ["pgbus's settle_done", "COMMIT"]


def test_a_handler_that_marks_the_event_in_its_transaction_survives_every_crash(
    pgbus_bus: BusUnderTest, kill: Callable[..., CrashReport]
) -> None:
    @pgbus_bus.listener(name="h")
    async def h(order: OrderPlaced, context: pgbus.Context) -> None:
        own = await open_own(pgbus_bus)
        async with own.transaction():
            if (
                await own.execute("INSERT INTO seen VALUES ($1) ON CONFLICT DO NOTHING", context.event.event_id)
                == "INSERT 0 1"
            ):
                await own.execute("UPDATE stock SET amount = amount - 1 WHERE item = 1")
        await own.close()

    report = kill()
    assert report.ok, str(report)


# ---------------------------------------------------------------------------------------------------- planted bugs


def test_rows_that_a_plain_handler_inserts_are_doubled(
    pgbus_bus: BusUnderTest, kill: Callable[..., CrashReport]
) -> None:
    @pgbus_bus.listener(name="h")
    async def h(order: OrderPlaced) -> None:
        own = await open_own(pgbus_bus)
        await own.execute("INSERT INTO counted (order_id) VALUES ($1)", order.order_id)
        await own.close()

    report = kill()
    assert whats(report) == {("doubled", "public.counted")}
    assert "doubled: public.counted: {order_id: 7}" in str(report)
    first = report.findings[0].point
    assert (first.when, first.what) == ("after", "INSERT INTO counted (order_id) VALUES ($1)")
    # The page shows such a report, of the tutorial's handler.
    told = (
        str(report).replace("h was", "count_orders was").replace("counted", "counted_orders").replace(" (order_id)", "")
    )
    page = shown(ROOT / "docs" / "how-to" / "testing.md", "count_orders was killed")
    assert [*map(outline, told.splitlines())] == [*map(outline, page)]


def test_a_counter_that_a_plain_handler_raises_is_raised_twice(
    pgbus_bus: BusUnderTest, kill: Callable[..., CrashReport]
) -> None:
    @pgbus_bus.listener(name="h")
    async def h(order: OrderPlaced) -> None:
        own = await open_own(pgbus_bus)
        await own.execute("UPDATE stock SET amount = amount - 1 WHERE item = 1")
        await own.close()

    report = kill()
    assert whats(report) == {("changed", "public.stock")}
    assert "{amount: 8, item: 1} instead of {amount: 9, item: 1}" in str(report)


def test_a_mark_that_is_committed_before_the_work_loses_the_work(
    pgbus_bus: BusUnderTest, kill: Callable[..., CrashReport]
) -> None:
    @pgbus_bus.listener(name="h")
    async def h(order: OrderPlaced, context: pgbus.Context) -> None:
        own = await open_own(pgbus_bus)
        if (
            await own.execute("INSERT INTO seen VALUES ($1) ON CONFLICT DO NOTHING", context.event.event_id)
            == "INSERT 0 1"
        ):
            await own.execute("INSERT INTO counted (order_id) VALUES ($1)", order.order_id)
        await own.close()

    assert whats(kill()) == {("lost", "public.counted")}


def test_a_mark_that_is_committed_after_the_work_doubles_the_work(
    pgbus_bus: BusUnderTest, kill: Callable[..., CrashReport]
) -> None:
    @pgbus_bus.listener(name="h")
    async def h(order: OrderPlaced, context: pgbus.Context) -> None:
        own = await open_own(pgbus_bus)
        if not await own.fetchval("SELECT EXISTS (SELECT FROM seen WHERE event_id = $1)", context.event.event_id):
            await own.execute("INSERT INTO counted (order_id) VALUES ($1)", order.order_id)
            await own.execute("INSERT INTO seen VALUES ($1)", context.event.event_id)
        await own.close()

    assert whats(kill()) == {("doubled", "public.counted")}


def test_the_second_of_two_transactions_is_lost_when_the_first_is_the_mark(
    pgbus_bus: BusUnderTest, kill: Callable[..., CrashReport]
) -> None:
    @pgbus_bus.listener(name="h")
    async def h(order: OrderPlaced) -> None:
        own = await open_own(pgbus_bus)
        if await own.fetchval("SELECT amount FROM stock WHERE item = 1") == 10:
            async with own.transaction():
                await own.execute("UPDATE stock SET amount = amount - 1 WHERE item = 1")
            async with own.transaction():
                await own.execute("UPDATE stock SET amount = amount + 1 WHERE item = 2")
        await own.close()

    report = kill()
    assert whats(report) == {("changed", "public.stock")}
    assert "{amount: 0, item: 2} instead of {amount: 1, item: 2}" in str(report)


def test_what_is_published_outside_of_the_transaction_is_published_twice(
    pgbus_bus: BusUnderTest, kill: Callable[..., CrashReport]
) -> None:
    @pgbus_bus.listener(name="h", transactional=True)
    async def h(order: OrderPlaced, connection: Connection) -> None:
        await connection.execute("INSERT INTO counted (order_id) VALUES ($1)", order.order_id)
        await pgbus_bus.publish({"order_id": order.order_id}, topic="orders.counted")

    report = kill()
    assert whats(report) == {("doubled", "events")}
    assert 'doubled: events: {key: null, payload.order_id: 7, topic: "orders.counted"}' in str(report)


def test_an_effect_before_the_commit_happens_twice(
    pgbus_bus: BusUnderTest, pgbus_crash_points: CrashPoints, kill: Callable[..., CrashReport]
) -> None:
    send_mail = pgbus_crash_points.effect("send_mail")

    @pgbus_bus.listener(name="h", transactional=True)
    async def h(order: OrderPlaced, connection: Connection) -> None:
        await connection.execute("INSERT INTO counted (order_id) VALUES ($1)", order.order_id)
        await send_mail("ada@example.com", order=order.order_id)

    report = kill()
    assert whats(report) == {("doubled", "send_mail")}
    assert "doubled: send_mail: send_mail('ada@example.com', order=7)" in str(report)
    assert kill(may_double=["send_mail"]).ok


def test_an_effect_after_the_mark_is_lost(
    pgbus_bus: BusUnderTest, pgbus_crash_points: CrashPoints, kill: Callable[..., CrashReport]
) -> None:
    send_mail = pgbus_crash_points.effect("send_mail")

    @pgbus_bus.listener(name="h")
    def h(order: OrderPlaced, context: pgbus.Context) -> None:
        with psycopg.connect(pgbus_bus.config.dsn or "", autocommit=True) as own:
            if own.execute("INSERT INTO seen VALUES (%s) ON CONFLICT DO NOTHING", [context.event.event_id]).rowcount:
                send_mail("ada@example.com")

    assert whats(kill(may_double=["send_mail"])) == {("lost", "send_mail")}


def test_a_memory_of_the_process_does_not_outlive_it(pgbus_bus: BusUnderTest, kill: Callable[..., CrashReport]) -> None:
    handled: set[object] = set()

    @pgbus_bus.listener(name="h")
    async def h(order: OrderPlaced, context: pgbus.Context) -> None:
        if context.event.event_id not in handled:
            own = await open_own(pgbus_bus)
            await own.execute("INSERT INTO counted (order_id) VALUES ($1)", order.order_id)
            await own.close()
            handled.add(context.event.event_id)

    assert whats(kill()) == {("doubled", "public.counted")}


def test_a_handler_that_cannot_be_run_twice_makes_a_dead_letter(
    pgbus_bus: BusUnderTest, kill: Callable[..., CrashReport]
) -> None:
    @pgbus_bus.listener(name="h", retry=pgbus.RetryPolicy(max_attempts=2))
    async def h(order: OrderPlaced) -> None:
        own = await open_own(pgbus_bus)
        await own.execute("INSERT INTO stock VALUES (3, 1)")
        await own.close()

    report = kill()
    assert whats(report) == {("dead", "events")}
    assert "UniqueViolationError" in str(report)


def test_work_that_a_handler_leaves_to_a_task_is_lost(
    pgbus_bus: BusUnderTest, kill: Callable[..., CrashReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Undisturbed, on a busy machine too, it is done.
    monkeypatch.setattr("pgbus.testing.crashes.process.LEFT_TASKS_TIME", PATIENCE)
    tasks: list[asyncio.Task[None]] = []

    @pgbus_bus.listener(name="h")
    async def h(order: OrderPlaced) -> None:
        async def later() -> None:
            own = await open_own(pgbus_bus)
            await own.execute("SELECT pg_sleep(0.3)")
            await own.execute("INSERT INTO counted (order_id) VALUES ($1)", order.order_id)
            await own.close()

        tasks.append(asyncio.create_task(later()))

    assert ("lost", "public.counted") in whats(kill())


# --------------------------------------------------------------------------------------------------------- the rest


def test_an_undisturbed_run_that_fails_is_told(pgbus_bus: BusUnderTest, kill: Callable[..., CrashReport]) -> None:
    @pgbus_bus.listener(name="h")
    async def h(order: OrderPlaced) -> None:
        raise pgbus.Dead("it never works")

    with pytest.raises(AssertionError, match=r"h fails without any crash: .*it never works"):
        kill()


def test_an_unknown_listener_is_refused(pgbus_bus: BusUnderTest, pgbus_crash_points: CrashPoints) -> None:
    with pytest.raises(pgbus.errors.ConfigurationError, match="there is no listener 'nope'; there are none"):
        pgbus_crash_points.run("nope", OrderPlaced(1))


async def test_it_works_within_an_async_test(pgbus_bus: BusUnderTest, kill: Callable[..., CrashReport]) -> None:
    @pgbus_bus.listener(name="h", transactional=True)
    async def h(order: OrderPlaced, connection: Connection) -> None:
        await connection.execute("INSERT INTO counted (order_id) VALUES ($1)", order.order_id)

    report = kill()
    assert report.ok, str(report)


def test_the_applications_own_engine_is_pointed_at_the_database_of_each_run(
    pgbus_bus: BusUnderTest, kill: Callable[..., CrashReport]
) -> None:
    mine: list[str] = []

    @pgbus_bus.listener(name="h")
    async def h(order: OrderPlaced) -> None:
        own = await asyncpg.connect(mine[-1])
        await own.execute("UPDATE stock SET amount = amount - 1 WHERE item = 1")
        await own.close()

    configure: Callable[[str], Awaitable[None] | None] = mine.append
    assert whats(kill(configure=configure)) == {("changed", "public.stock")}
    assert mine == []
