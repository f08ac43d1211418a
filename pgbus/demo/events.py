"""The events that the shop publishes."""

from dataclasses import dataclass

import pgbus


@pgbus.event("shop.order_placed")
@dataclass(frozen=True, slots=True)
class OrderPlaced:
    order_id: int
    customer: str
    email: str | None
    sku: str
    quantity: int
    cents: int
