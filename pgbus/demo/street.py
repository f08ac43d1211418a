"""The shop's neighbours, for the dashboard: a bank and a carrier, each a service of its own.

    shop.order_placed --> bank: charge --> bank.charged --> carrier: ship --calls carrier.quote--> carrier.shipped

Seldom a card is declined, a parcel is too heavy for all carriers, or a quote takes long.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import pgbus
from pgbus.demo.events import OrderPlaced

CARDS_DECLINED = 0.03
HEAVY = 5  # pieces that no carrier takes


@pgbus.event("bank.charged")
@dataclass(frozen=True, slots=True)
class Charged:
    order_id: int
    customer: str
    quantity: int
    cents: int


@pgbus.event("bank.declined")
@dataclass(frozen=True, slots=True)
class Declined:
    order_id: int
    reason: str


@pgbus.event("carrier.shipped")
@dataclass(frozen=True, slots=True)
class Shipped:
    order_id: int
    carrier: str
    cents: int


bank = pgbus.create(service_name="bank", namespace="pgbus")
carrier = pgbus.create(service_name="carrier", namespace="pgbus")


@bank.listener(OrderPlaced, name="charge")
async def charge(order: OrderPlaced) -> None:
    await asyncio.sleep(random.uniform(0.002, 0.02))
    if random.random() < CARDS_DECLINED:
        await bank.publish(Declined(order.order_id, "the card has expired"), key=order.customer)
    else:
        await bank.publish(Charged(order.order_id, order.customer, order.quantity, order.cents), key=order.customer)


@bank.client.every(seconds=20)
async def settle_accounts() -> None:
    await asyncio.sleep(random.uniform(0.1, 1.5))


@carrier.procedure("carrier.quote", timeout=1)
async def quote(quantity: int) -> int:
    await asyncio.sleep(random.uniform(0.001, 0.03))
    if quantity >= HEAVY and random.random() < 0.2:
        raise ValueError(f"no carrier takes {quantity} pieces")
    return 300 + 50 * quantity


@carrier.listener(Charged, name="ship", retry=pgbus.RetryPolicy(max_attempts=3, base_delay=0.3))
async def ship(order: Charged) -> None:
    cents = await carrier.call("carrier.quote", {"quantity": order.quantity}, returns=int)
    await asyncio.sleep(random.uniform(0.005, 0.05))
    await carrier.publish(Shipped(order.order_id, random.choice(("ravens", "mules")), cents), key=order.customer)


@carrier.listener("carrier.returned", name="restock")
async def restock(parcel: pgbus.EventMessage) -> None:
    """Put what comes back on sale again; nothing has ever come back."""
