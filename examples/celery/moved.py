# moved.py: the same work as a listener
import psycopg
from bus import OrderPlaced, bus
from receipts import send_receipt

import pgbus


@bus.listener(OrderPlaced, name="send_receipt", transactional=True)
def receipt_listener(order: OrderPlaced, context: pgbus.Context, connection: psycopg.Connection) -> None:
    send_receipt(connection, order, event_id=context.event.event_id, sent_by="pgbus")
