"""A shop on SQLAlchemy's ORM. Prepare the database, place orders, and run the worker:

python shop.py migrate
python shop.py place pen
pgbus run shop
"""

import os
import sys
from dataclasses import dataclass

from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import pgbus
from pgbus import migrate
from pgbus.contrib.sqlalchemy import OutboxEvent, record_event

DSN = os.environ["PGBUS_DSN"]
bus = pgbus.create(DSN)
engine = create_engine(bus.config.sqlalchemy_url("psycopg"))


@pgbus.event("orders.placed")
@dataclass
class OrderPlaced:
    order_id: int
    sku: str


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    sku: Mapped[str]

    @classmethod
    def place(cls, sku: str) -> "Order":
        order = cls(sku=sku)
        record_event(order, lambda: OrderPlaced(order.id, order.sku))  # the database gives the id
        return order


class Parcel(Base):
    __tablename__ = "parcels"

    order_id: Mapped[int] = mapped_column(primary_key=True)


@bus.listener(OrderPlaced, name="pack_order", start="beginning", transactional=True)
async def pack_order(order: OrderPlaced, session: AsyncSession) -> None:
    session.add(Parcel(order_id=order.order_id))
    session.add(OutboxEvent({"order_id": order.order_id}, topic="parcels.packed"))


@bus.listener("parcels.packed", name="tell", start="beginning")
async def tell(parcel: dict[str, int]) -> None:
    print(f"order {parcel['order_id']} is packed")


def main(command: str, *skus: str) -> None:
    if command == "migrate":
        migrate.upgrade(DSN)
        Base.metadata.create_all(engine)
        return
    with Session(engine) as session:
        session.add_all(Order.place(sku) for sku in skus)
        with session.begin_nested() as savepoint:
            session.add(Order.place("a change of mind"))
            savepoint.rollback()
        session.commit()
        print("orders:", session.scalar(text("SELECT count(*) FROM orders")))


if __name__ == "__main__":
    main(*sys.argv[1:])
