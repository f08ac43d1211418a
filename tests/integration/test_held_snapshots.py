"""A stream beside held snapshots: what an event costs the server does not grow with the dead rows that they keep.

Counted in pages of the two hot tables, as times mean little on a busy machine. `python -m benchmarks held` measures
rates and times, for as long as PGBUS_BENCH_SECONDS says.
"""

from __future__ import annotations

import asyncpg
import pytest

from pgbus.leader import maintenance
from pgbus.listeners import claimer
from tests.conftest import Connect
from tests.support import eventually
from tests.support.workers import Inbox, open_bus, running

RARELY = 3600.0
ROUNDS = 40
FILLING = 40
FILL = 50
PUBLISH = """
INSERT INTO pgbus.outbox (topic, key, payload)
SELECT 'orders.placed', n::text, to_jsonb(n) FROM generate_series($1::integer, $2::integer) AS n
"""
PAGES = """
SELECT sum(heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read)::bigint
FROM pg_statio_user_tables WHERE schemaname = 'pgbus' AND relname IN ('outbox', 'deliveries')
"""
# A session reports what it did when it ends, which is some time after its client has left.
ENDED = """
SELECT count(*) FILTER (WHERE application_name = 'pgbus') = 0
FROM pg_stat_activity WHERE datname = current_database()
"""


async def stream(database: str, connection: asyncpg.Connection, *, rounds: int, events: int) -> int:
    """Publish that many events at a time to an ordered and a plain listener; the pages that were touched."""
    before = int(await connection.fetchval(PAGES))
    async with open_bus(database, lease=RARELY) as bus:
        plain, ordered = Inbox[int](), Inbox[int]()

        @bus.listener("orders.placed", name="plain")
        async def handle(event: int) -> None:
            plain.put(event)

        @bus.listener("orders.placed", name="ordered", ordered=True)
        async def handle_in_order(event: int) -> None:
            ordered.put(event)

        async with running(bus):
            for number in range(1, rounds + 1):
                await connection.execute(PUBLISH, number * events, (number + 1) * events - 1)
                await plain.take(number * events)
                await ordered.take(number * events)
    await eventually(lambda: connection.fetchval(ENDED))
    return int(await connection.fetchval(PAGES)) - before


async def test_dead_rows_under_held_snapshots_cost_later_events_little(
    database: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Scans from the bottom come every few seconds, whatever the number of events: one of each kind, at the start.
    monkeypatch.setattr(claimer, "BOTTOM_INTERVAL", RARELY)
    monkeypatch.setattr(maintenance, "SEARCH_INTERVAL", RARELY)
    connection, reader, writer = [await connect(database) for _ in range(3)]
    for table in ("outbox", "deliveries"):  # whose pages autovacuum would read at a moment of its own
        await connection.execute(f"ALTER TABLE pgbus.{table} SET (autovacuum_enabled = false)")
    alone = await stream(database, connection, rounds=ROUNDS, events=2)
    for holder, query in ((reader, "SELECT count(*) FROM pg_class"), (writer, "SELECT pg_current_xact_id()")):
        await holder.execute(f"BEGIN ISOLATION LEVEL REPEATABLE READ; {query}")
    await stream(database, connection, rounds=FILLING, events=FILL)
    # As autovacuum does: it removes nothing, and counts so few rows that plans which read all of them look cheap.
    await connection.execute("VACUUM pgbus.outbox, pgbus.deliveries")
    held = await stream(database, connection, rounds=ROUNDS, events=2)
    # Measured: 2.3 times as many; 16 times with a plan that reads all dead rows, and 21 without the floors of lanes.
    assert held < 4 * alone
