from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import psycopg
import pytest

from pgbus.database.connections import ENGINE_SETTINGS, settings_sql
from pgbus.database.statements.deliveries import Claim
from pgbus.handlers.outcomes import DONE
from pgbus.listeners.settlement import HeldClaim, settlement
from pgbus.messages import EventMessage
from tests.plans.plan import Plan, Plans
from tests.support import DatabaseServer

EVENTS = 200_000
DEAD = 100_000
SECOND_PARTITION = 1_000_000_000
FIRST_OWED = EVENTS - 9_999
DUE_FLOOR = 0.0

# Listeners 1 to 3 hear everything, 4 is ordered. The last 10,000 events of the log are owed to 1 and 4, in runs
# of 100; what lies before was delivered: rows that are dead, but cannot be removed while a snapshot is open.
LISTENERS = """
INSERT INTO pgbus.listeners (listener_name, lanes)
VALUES ('one', NULL), ('two', NULL), ('three', NULL), ('ordered', 16);
INSERT INTO pgbus.subscriptions (listener_id, pattern, regex)
SELECT n, 'shop.**', '^shop\\.([A-Za-z0-9_-]+\\.)*$' FROM generate_series(1, 4) AS n;
"""
FILL = f"""
SELECT pgbus.open_partition(1);
{LISTENERS}
INSERT INTO pgbus.events (position, event_id, topic, key, payload, published_at, logged_at)
SELECT n, gen_random_uuid(), 'shop.sold', 'customer ' || n % 1000, jsonb_build_object('n', n),
       now() - interval '1 day' + n * interval '100 ms', now() - interval '1 day' + n * interval '100 ms'
FROM generate_series(1, {EVENTS}) AS n;
INSERT INTO pgbus.events (position, event_id, topic, key, payload, published_at, logged_at)
SELECT {SECOND_PARTITION} + n, gen_random_uuid(), 'shop.sold', NULL, '{{}}', now(), now()
FROM generate_series(1, 1000) AS n;
INSERT INTO pgbus.history (first, listener_id, attempt, outcome, started_at, duration, worker)
SELECT n, 2, 1, 'done', now() - interval '1 day' + n * interval '100 ms', 0.01, 'w'
FROM generate_series(1, {EVENTS}) AS n;
INSERT INTO pgbus.history (first, span, listener_id, attempt, outcome, started_at, durations, worker)
SELECT n, 49 - 14 * (n / 50 % 2), 3, 1, 'done', now() - interval '1 day' + n * interval '100 ms',
       array_fill(0.01::real, ARRAY[(50 - 14 * (n / 50 % 2))::integer]), 'w'
FROM generate_series(0, {EVENTS}, 64) AS n;
"""
CHURN = f"""
INSERT INTO pgbus.outbox (topic, payload) SELECT 'shop.sold', '{{}}' FROM generate_series(1, {DEAD}) AS n;
DELETE FROM pgbus.route_changes;
DELETE FROM pgbus.outbox;
INSERT INTO pgbus.outbox (topic, payload) SELECT 'shop.sold', '{{}}' FROM generate_series(1, 3000) AS n;
INSERT INTO pgbus.outbox (topic, payload, deliver_at)
SELECT 'shop.sold', '{{}}', now() + n * interval '1 minute' FROM generate_series(1, 3000) AS n;
INSERT INTO pgbus.deliveries (listener_id, first, last, events) SELECT 1, n, n, 1 FROM generate_series(1, {DEAD}) AS n;
DELETE FROM pgbus.deliveries;
INSERT INTO pgbus.deliveries (listener_id, first, last, events)
SELECT 1, n, n + 99, 100 FROM generate_series({EVENTS - 9999}, {EVENTS}, 100) AS n;
INSERT INTO pgbus.deliveries (listener_id, lane, first, last, events)
SELECT 4, n / 100 % 16, n, n + 99, 100 FROM generate_series({EVENTS - 9999}, {EVENTS}, 100) AS n;
"""

# Of a transaction that is still open; some of the tables may be its own, and are gone with it.
WRITTEN = "SELECT relid FROM pg_stat_xact_user_tables WHERE n_tup_ins + n_tup_upd + n_tup_del > 0"
LEFT = "SELECT oid::regclass::text AS name FROM pg_class WHERE oid = ANY ($1::oid[])"
RANGES = """
SELECT i.indexrelid::regclass::text AS name
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_am AS a ON a.oid = c.relam
WHERE a.amname = 'brin' AND i.indrelid = ANY ($1::oid[])
"""


@pytest.fixture(scope="session")
def full_database(server: DatabaseServer, upgraded_template: str) -> Iterator[str]:
    """A bus that has seen some traffic, while somebody holds a snapshot open. Filling it takes seconds: once a run."""
    with server.temporary_database(template=upgraded_template) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(FILL)
        with churned(dsn):
            yield dsn


@contextmanager
def churned(dsn: str) -> Iterator[None]:
    """The traffic of `CHURN` beside a snapshot that stays open, with the statistics of all tables as they then are."""
    with psycopg.connect(dsn) as holder, psycopg.connect(dsn, autocommit=True) as connection:
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT count(*) FROM pgbus.workers")
        connection.execute(CHURN)
        for table in ("outbox", "events", "history", "deliveries", "listeners", "subscriptions"):
            connection.execute(f"ANALYZE pgbus.{table}")
        # What the tests insert and roll back would else be in the statistics of the tests after them.
        for table in ("outbox", "deliveries", "events_p0", "history_p0"):
            connection.execute(f"ALTER TABLE pgbus.{table} SET (autovacuum_enabled = false)")
        # A BRIN index knows nothing of the pages that were filled since it was made until an autovacuum has come by.
        connection.execute("SELECT brin_summarize_new_values('pgbus.history_p0_started_at_idx')")
        yield


@pytest.fixture
async def plans(full_database: str) -> AsyncIterator[Plans]:
    """Plans of the named statements as the engine runs them, in that database."""
    async with plans_in(full_database) as made:
        yield made


@contextmanager
def next_to_a_snapshot(
    server: DatabaseServer, template: str, *, table: str, takes: str = "SELECT count(*) FROM pgbus.workers"
) -> Iterator[tuple[str, psycopg.Connection]]:
    """DSN of a database, and a connection to fill it: what is deleted from the table stays in it as dead rows.

    Somebody holds the snapshot of the query `takes`, and no autovacuum reads the table.
    """
    with (
        server.temporary_database(template=template) as dsn,
        psycopg.connect(dsn, autocommit=True) as holder,
        psycopg.connect(dsn, autocommit=True) as connection,
    ):
        connection.execute(f"ALTER TABLE pgbus.{table} SET (autovacuum_enabled = false)".encode())
        holder.execute(f"BEGIN ISOLATION LEVEL REPEATABLE READ; {takes}".encode())
        yield dsn, connection


@contextmanager
def filled(server: DatabaseServer, template: str, fill: str, *tables: str) -> Iterator[str]:
    """DSN of a database for the tests of a module: filled, with the statistics of these tables as they then are."""
    with server.temporary_database(template=template) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(fill.encode())
        for table in tables:
            connection.execute(f"ALTER TABLE pgbus.{table} SET (autovacuum_enabled = false)".encode())
            connection.execute(f"ANALYZE pgbus.{table}".encode())
        yield dsn


@asynccontextmanager
async def plans_in(dsn: str) -> AsyncIterator[Plans]:
    """Plans of the named statements as the engine runs them; whatever they write is rolled back and swept away."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(settings_sql(ENGINE_SETTINGS))
    transaction = connection.transaction()
    await transaction.start()
    yield Plans(connection)
    written = [row["relid"] for row in await connection.fetch(WRITTEN)]
    await transaction.rollback()
    await sweep(connection, written)
    await connection.close()


async def sweep(connection: asyncpg.Connection, tables: Sequence[int]) -> None:
    """Take away the rows that were rolled back. What the held snapshot could see stays, whoever vacuums.

    The tests after this one, in whatever order xdist has them, would count the pages of these rows, and those of the
    ranges of an index that were widened for them.
    """
    for row in await connection.fetch(LEFT, tables):
        await connection.execute(f"VACUUM (INDEX_CLEANUP on) {row['name']}")
    for row in await connection.fetch(RANGES, tables):
        await connection.execute(f"REINDEX INDEX {row['name']}")


# Of the log this is a partition that has just begun; the others have what waits, not what was.
SMALL = {"events_p1", "outbox", "deliveries"}


async def ask(plans: Plans, name: str, /, **values: Any) -> Plan:
    """Twice, with the server's settings, as a page has them: a session's first query also reads the catalog."""
    await plans.connection.execute("RESET ALL")
    await plans.carry_out(name, values)
    plan = await plans.carry_out(name, values)
    assert plan.scanned_whole <= SMALL
    assert not plan.is_compiled
    return plan


async def claim(
    plans: Plans,
    listener: int,
    *,
    limit: int,
    floor: int = FIRST_OWED,
    due_floor: float = DUE_FLOOR,
    piece: int = 100,
    lane_floors: Sequence[int] = (),
) -> Plan:
    return await plans.explain(
        "claim_deliveries",
        listener_id=listener,
        worker_id=1,
        claim_token=uuid4(),
        lane_floors=list(lane_floors) or [0] * (16 if listener == 4 else 0),
        floor=floor,
        due_floor=due_floor,
        rows=limit // 100 + 2,
        limit=limit,
        piece=piece,
        lease=60.0,
        suspects=False,
        blocking=False,
        left_topics=[],
    )


def done(ids: Sequence[int], tokens: Sequence[str]) -> dict[str, object]:
    events = [EventMessage(topic="shop.sold", raw="{}", event_id=uuid4(), position=n + 1) for n in range(len(ids))]
    held_claims = []
    for id_, token, event in zip(ids, tokens, events, strict=True):
        held = HeldClaim(Claim(id_, UUID(token), 1, None, False, True, event.position or 0, 0.0, 1, [event]), now=0.0)
        held.end(0, DONE, started=0.0, duration=0.0)
        held_claims.append(held)
    values, _, _ = settlement(held_claims, listener_id=3, worker="w", blocking=False)
    return values
