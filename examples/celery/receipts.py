# receipts.py: the work itself, which does not know who calls it
from uuid import UUID

import psycopg
from bus import OrderPlaced, ReceiptSent, bus


def send_receipt(connection: psycopg.Connection, order: OrderPlaced, *, event_id: UUID | str, sent_by: str) -> None:
    """Send a receipt in a transaction of the caller's, once for each event, by Celery or by a listener."""
    # A second one waits here until the first has committed or rolled back, and then does nothing, or its work.
    taken = connection.execute(
        "INSERT INTO receipts (event_id, order_id, sent_by) VALUES (%s, %s, %s) ON CONFLICT (event_id) DO NOTHING",
        (str(event_id), order.order_id, sent_by),
    )
    if taken.rowcount:
        # A provider of mail would get the event_id as its idempotency key.
        print(f"to {order.email}: the receipt for order {order.order_id}, by {sent_by}", flush=True)
        bus.publish_sync(ReceiptSent(order.order_id), using=connection)
