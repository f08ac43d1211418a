"""The listeners for placed orders. Each of the three gets every event, and none waits for another."""

import asyncio
import random
from collections import defaultdict

import asyncpg

import pgbus
from pgbus.demo.events import OrderPlaced

bus = pgbus.create(service_name="shop", namespace="pgbus")


# A mail cannot be undone, so this listener is "at least once". The mail server sometimes drops a connection; an order
# without an address fails at every attempt, and becomes a dead letter.
@bus.listener(OrderPlaced, name="send_confirmation", retry=pgbus.RetryPolicy(max_attempts=4, base_delay=0.2))
async def send_confirmation(order: OrderPlaced, context: pgbus.Context) -> None:
    if order.email is None:
        raise ValueError("no e-mail address")
    await asyncio.sleep(random.uniform(0.001, 0.01))
    if context.attempt < 3 and random.random() < 0.08:
        raise ConnectionError("the mail server closed the connection")


# The writes of a transactional listener commit together with the event's settlement: effectively once. When it fails
# after it has written, its writes are rolled back, and the next attempt starts again.
@bus.listener(
    OrderPlaced, name="reserve_stock", transactional=True, concurrency=4, retry=pgbus.RetryPolicy(base_delay=0.1)
)
async def reserve_stock(order: OrderPlaced, connection: asyncpg.Connection, context: pgbus.Context) -> None:
    await connection.execute("INSERT INTO shop.reservations VALUES ($1, $2)", order.order_id, order.quantity)
    await connection.execute("UPDATE shop.stock SET quantity = quantity - $2 WHERE sku = $1", order.sku, order.quantity)
    if context.attempt == 1 and random.random() < 0.03:
        raise RuntimeError("the scanner in the warehouse hung up")


# All waiting orders at once: one UPDATE for all of them.
@bus.listener(OrderPlaced, name="update_dashboard", batch=True, transactional=True, concurrency=1)
async def update_dashboard(orders: list[OrderPlaced], connection: asyncpg.Connection) -> None:
    totals: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for order in orders:
        count, cents = totals[order.sku]
        totals[order.sku] = (count + 1, cents + order.cents)
    await connection.executemany(
        """
        INSERT INTO shop.dashboard AS d VALUES ($1, $2, $3)
        ON CONFLICT (sku) DO UPDATE SET orders = d.orders + excluded.orders, cents = d.cents + excluded.cents
        """,
        [(sku, *total) for sku, total in sorted(totals.items())],
    )
