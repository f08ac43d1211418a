# app.py
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from bus import OrderPlaced, bus
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from pgbus import BoundBus
from pgbus.contrib.fastapi import PgBusMiddleware, bound_bus, lifespan

engine = create_async_engine("postgresql+asyncpg://", connect_args={"dsn": bus.config.dsn})
sessions = async_sessionmaker(engine)


async def get_session() -> AsyncIterator[AsyncSession]:
    async with sessions.begin() as session:
        yield session


# With scope "function", the commit comes before the response, and not after it.
SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]
BusDep = Annotated[BoundBus, Depends(bound_bus(bus, SessionDep))]


@asynccontextmanager
async def own_lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan(bus, own_lifespan))
app.add_middleware(PgBusMiddleware, bus=bus)


@app.post("/orders", status_code=201)
async def place_order(item: str, session: SessionDep, events: BusDep) -> dict[str, int]:
    inserted = await session.execute(text("INSERT INTO orders (item) VALUES (:item) RETURNING id"), {"item": item})
    order_id = inserted.scalar_one()
    await events.publish(OrderPlaced(order_id, item))
    if item == "nothing":
        raise HTTPException(422, "nothing cannot be ordered")
    return {"order_id": order_id}


@app.get("/parcels")
async def count_parcels(session: SessionDep) -> dict[str, int]:
    counted = await session.execute(text("SELECT count(*) FROM parcels"))
    return {"parcels": counted.scalar_one()}


@app.get("/prices/{item}")
async def get_price(item: str) -> dict[str, int]:
    return {"price": await bus.call("prices.get_price", {"item": item})}
