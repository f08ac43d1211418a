"""The listeners of the worker. pgbus imports this module as Django's admin imports `admin.py`."""

from orders.events import OrderPlaced
from orders.models import Bill
from pgbus.contrib.django import bus


# In `atomic`: the bill and the end of the event's delivery commit together, so there is one bill for each order.
@bus.listener(OrderPlaced, name="bill_order", transactional=True)
def bill_order(event: OrderPlaced) -> None:
    Bill.objects.create(order_id=event.order_id)
