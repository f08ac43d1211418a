# bus.py
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

import pgbus

bus = pgbus.create(service_name="shop")


@pgbus.event("orders.placed")
@dataclass
class OrderPlaced:
    order_id: int
    item: str


@bus.listener(OrderPlaced, name="pack_parcel", transactional=True)
async def pack_parcel(order: OrderPlaced, session: AsyncSession) -> None:
    await session.execute(
        text("INSERT INTO parcels (order_id, item) VALUES (:order_id, :item)"),
        {"order_id": order.order_id, "item": order.item},
    )


@bus.procedure("prices.get_price")
async def get_price(item: str) -> int:
    return 10 * len(item)
