# bus.py
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

import pgbus
from pgbus.contrib.lihil import BusTerminal, Event, MessageRegistry

bus = pgbus.create(service_name="shop")


class OrderPlaced(Event):
    order_id: int
    item: str


async def pack_parcel(order: OrderPlaced, _: Any, session: AsyncSession) -> None:
    await session.execute(
        text("INSERT INTO parcels (order_id, item) VALUES (:order_id, :item)"),
        {"order_id": order.order_id, "item": order.item},
    )


registry: MessageRegistry[Event] = MessageRegistry(event_base=Event)
registry.register(pack_parcel)
terminal = BusTerminal(registry, bus=bus)


@bus.procedure("prices.get_price")
async def get_price(item: str) -> int:
    return 10 * len(item)
