try:
    from django.tasks import task
except ImportError:  # before Django 6
    from django_tasks import task

from orders.models import Order


@task
def print_receipt(order_id: int) -> str:
    return f"one {Order.objects.get(pk=order_id).cake}, thank you"
