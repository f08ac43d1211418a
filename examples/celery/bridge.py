# bridge.py: from an event to a task
from bus import OrderPlaced, bus
from mail import app

import pgbus


@bus.listener(OrderPlaced, name="receipts_by_celery")
def call_celery(order: OrderPlaced, context: pgbus.Context) -> None:
    event_id = str(context.event.event_id)
    app.send_task(
        "mail.send_receipt",
        kwargs={
            "order_id": order.order_id, "email": order.email,
            "event_id": event_id, "correlation_id": context.cause.correlation_id,
        },
        task_id=event_id,
    )  # fmt: skip
