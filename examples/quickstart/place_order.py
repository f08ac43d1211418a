# place_order.py
import asyncio
import sys

import asyncpg
from bus import OrderPlaced, bus


async def place_order(email: str) -> None:
    connection = await asyncpg.connect(bus.config.dsn)
    try:
        async with connection.transaction():
            order_id = await connection.fetchval("INSERT INTO orders (email) VALUES ($1) RETURNING id", email)
            await bus.publish(OrderPlaced(order_id, email), using=connection)
            if email == "changed-my-mind@example.com":
                raise SystemExit("rolled back")
    finally:
        await connection.close()
    print(f"placed order {order_id}")


asyncio.run(place_order(sys.argv[1]))
