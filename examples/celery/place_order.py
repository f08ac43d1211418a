# place_order.py: where `receipt_task.delay(...)` was called after the commit
import sys

import psycopg
from bus import OrderPlaced, bus


def place_order(email: str) -> None:
    with psycopg.connect(bus.config.dsn) as connection:
        inserted = connection.execute("INSERT INTO orders (email) VALUES (%s) RETURNING id", (email,))
        for (order_id,) in inserted:
            bus.publish_sync(OrderPlaced(order_id, email), using=connection)
            print(f"placed order {order_id}")


place_order(sys.argv[1])
