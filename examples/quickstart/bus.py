# bus.py
from dataclasses import dataclass

import asyncpg

import pgbus

bus = pgbus.create(service_name="orders")


@pgbus.event("orders.placed")
@dataclass
class OrderPlaced:
    order_id: int
    email: str


@bus.listener(OrderPlaced, name="send_confirmation", retry=pgbus.RetryPolicy(max_attempts=3, base_delay=0.5))
async def send_confirmation(order: OrderPlaced, context: pgbus.Context) -> None:
    if "@" not in order.email:
        raise ValueError(f"{order.email!r} is not an e-mail address")
    print(f"to {order.email}: thank you for order {order.order_id} (attempt {context.attempt})", flush=True)


@bus.listener(OrderPlaced, name="count_orders", transactional=True)
async def count_orders(order: OrderPlaced, connection: asyncpg.Connection) -> None:
    await connection.execute("INSERT INTO counted_orders VALUES ($1)", order.order_id)
