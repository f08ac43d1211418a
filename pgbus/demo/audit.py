"""Reads a run's figures from the database, and compares them with the clients' records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pgbus.demo.orders import Ledger
from pgbus.demo.tables import Connection

LISTENERS = ("send_confirmation", "reserve_stock", "update_dashboard")

# From the publishing of the event to the return of its handler, without retried events, which wait on purpose.
SUMMARY = """
    SELECT listener_name,
           count(*) FILTER (WHERE outcome = 'done') AS delivered,
           count(DISTINCT event_id) FILTER (WHERE outcome = 'retry') AS retried,
           count(*) FILTER (WHERE outcome = 'dead') AS dead,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) FILTER (WHERE outcome = 'done' AND attempt = 1) AS p50,
           percentile_cont(0.99) WITHIN GROUP (ORDER BY seconds) FILTER (WHERE outcome = 'done' AND attempt = 1) AS p99
    FROM (
        SELECT *, extract(epoch FROM started_at - published_at)::double precision + duration AS seconds
        FROM pgbus.event_history
        WHERE topic = 'shop.order_placed' AND position > $1
    ) AS attempts
    WHERE listener_name IS NOT NULL
    GROUP BY listener_name
    ORDER BY listener_name
"""

COUNTS = """
    SELECT listener_name,
           count(*) FILTER (WHERE outcome = 'done') AS delivered,
           count(DISTINCT event_id) FILTER (WHERE outcome = 'retry') AS retried,
           count(*) FILTER (WHERE outcome = 'dead') AS dead
    FROM pgbus.event_history
    WHERE topic = 'shop.order_placed' AND position > $1
    GROUP BY listener_name
"""

STORY = """
SELECT listener_name, attempt, outcome, error,
       to_char(started_at - published_at, 'SS.MS') AS seconds_after
FROM pgbus.event_history
WHERE topic = 'shop.order_placed'
  AND payload ->> 'order_id' = $1
ORDER BY started_at
""".strip()

_ATTEMPTS = """
    SELECT event_id, listener_name, outcome FROM pgbus.event_history
    WHERE topic = 'shop.order_placed' AND position > $1
"""
_BOOKS = """
    SELECT (SELECT sum(quantity) FROM shop.stock) AS stock,
           (SELECT COALESCE(sum(orders), 0) FROM shop.dashboard) AS dashboard_orders,
           (SELECT COALESCE(sum(cents), 0) FROM shop.dashboard) AS dashboard_cents,
           (SELECT count(*) FROM shop.reservations) AS reservations
"""


@dataclass(frozen=True, slots=True)
class Books:
    """Totals of the listeners' writes."""

    stock: int
    dashboard_orders: int
    dashboard_cents: int
    reservations: int


async def read_books(connection: Connection) -> Books:
    row = await connection.fetchrow(_BOOKS)
    assert row is not None
    return Books(**{name: int(value) for name, value in row.items()})


async def find_problems(connection: Connection, ledger: Ledger, *, after: int, before: Books) -> list[str]:
    """Return the contradictions between the events after position `after` and the clients' records; none if all is
    well."""
    attempts = await connection.fetch(_ATTEMPTS, after)
    orders = await connection.fetch("SELECT id FROM shop.orders")
    dead = await connection.fetch("SELECT event_id, listener_name FROM pgbus.dead WHERE position > $1", after)
    return [
        *compare_orders(ledger, {row["id"] for row in orders}),
        *compare_events(ledger, {row["event_id"] for row in attempts}),
        *compare_attempts(ledger, [tuple(row) for row in attempts]),
        *compare_dead_letters(ledger, {tuple(row) for row in dead}),
        *compare_books(ledger, before, await read_books(connection)),
    ]


def compare_orders(ledger: Ledger, order_ids: set[int]) -> Iterator[str]:
    for order in ledger.committed.values():
        if order.order_id not in order_ids:
            yield f"order {order.order_id} was committed, but is not in the table"
    for order in ledger.rolled_back.values():
        if order.order_id in order_ids:
            yield f"order {order.order_id} was rolled back, but is in the table"


def compare_events(ledger: Ledger, logged: set[UUID]) -> Iterator[str]:
    for event_id, order in ledger.committed.items():
        if event_id not in logged:
            yield f"the event of order {order.order_id} is missing from the log"
    for event_id, order in ledger.rolled_back.items():
        if event_id in logged:
            yield f"the event of order {order.order_id} was delivered, although the order was rolled back"


def compare_attempts(ledger: Ledger, attempts: Sequence[tuple[Any, ...]]) -> Iterator[str]:
    """Every event is, for every listener, done once or a dead letter."""
    ends = Counter((event_id, name) for event_id, name, outcome in attempts if outcome in ("done", "dead"))
    for event_id, order in ledger.committed.items():
        for name in LISTENERS:
            if (times := ends[event_id, name]) != 1:
                yield f"{name} ended with order {order.order_id} {times} times instead of once"


def compare_dead_letters(ledger: Ledger, dead: set[tuple[Any, ...]]) -> Iterator[str]:
    poison = {(event_id, "send_confirmation") for event_id, order in ledger.committed.items() if order.email is None}
    if dead != poison:
        yield f"the dead letters should be {sorted(poison)}, and are {sorted(dead)}"


def compare_books(ledger: Ledger, before: Books, now: Books) -> Iterator[str]:
    """The writes of transactional listeners must exist once for each event, whatever failed in between."""
    orders = ledger.committed.values()
    expected = Books(
        stock=before.stock - sum(order.quantity for order in orders),
        dashboard_orders=before.dashboard_orders + len(orders),
        dashboard_cents=before.dashboard_cents + sum(order.cents for order in orders),
        reservations=before.reservations + len(orders),
    )
    if now != expected:
        yield f"the listeners should have written {expected}, and wrote {now}"
