# app.py
from collections.abc import AsyncGenerator
from functools import partial
from typing import Annotated

from bus import OrderPlaced, bus, terminal
from lihil import HTTPException, Lihil, Route, status, use
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from pgbus.contrib.lihil import BusPlugin, PEventBus, PgBusMiddleware, lifespan

engine = create_async_engine("postgresql+asyncpg://", connect_args={"dsn": bus.config.dsn})
sessions = async_sessionmaker(engine)


async def get_session() -> AsyncGenerator[AsyncSession, None]:
    async with sessions() as session:
        yield session


SessionDep = Annotated[AsyncSession, use(get_session, reuse=True)]


async def place_order(item: str, session: SessionDep, events: PEventBus) -> Annotated[dict[str, int], status.CREATED]:
    async with session.begin():
        inserted = await session.execute(text("INSERT INTO orders (item) VALUES (:item) RETURNING id"), {"item": item})
        order_id = inserted.scalar_one()
        events.emit(OrderPlaced(order_id, item))
        if item == "nothing":
            raise HTTPException("nothing cannot be ordered", problem_status=422)
    return {"order_id": order_id}


async def count_parcels(session: SessionDep) -> dict[str, int]:
    counted = await session.execute(text("SELECT count(*) FROM parcels"))
    return {"parcels": counted.scalar_one()}


async def get_price(item: str) -> dict[str, int]:
    return {"price": await bus.call("prices.get_price", {"item": item})}


async def own_lifespan(_: Lihil) -> AsyncGenerator[None, None]:
    yield
    await engine.dispose()


orders = Route("orders")
orders.post(place_order, plugins=[BusPlugin(terminal)])
parcels = Route("parcels")
parcels.get(count_parcels)
prices = Route("prices/{item}")
prices.get(get_price)

app = Lihil(orders, parcels, prices, lifespan=lifespan(terminal, own_lifespan))
app.add_middleware(partial(PgBusMiddleware, bus=bus))
