# mail.py: the Celery application, whose task now takes the id of the event
import os

import psycopg
from bus import OrderPlaced, bus
from celery import Celery
from receipts import send_receipt

from pgbus import Cause, caused_by

app = Celery("mail", broker=os.environ["CELERY_BROKER_URL"])
app.conf.task_acks_late = True
app.conf.task_ignore_result = True


@app.task(name="mail.send_receipt", autoretry_for=(psycopg.OperationalError,), retry_backoff=True)
def receipt_task(order_id: int, email: str, event_id: str, correlation_id: str) -> None:
    cause = Cause(correlation_id=correlation_id, causation_id=event_id)
    with psycopg.connect(bus.config.dsn) as connection, caused_by(cause):
        send_receipt(connection, OrderPlaced(order_id, email), event_id=event_id, sent_by="Celery")
