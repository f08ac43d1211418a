from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from orders.events import OrderPlaced
from orders.models import Order
from orders.tasks import print_receipt
from pgbus.contrib.django import publish


# ATOMIC_REQUESTS: the order, its event and its task commit with the request, or are all rolled back.
@csrf_exempt
@require_POST
def place(request: HttpRequest) -> HttpResponse:
    order = Order.objects.create(cake=request.POST["cake"])
    publish(OrderPlaced(order.pk))
    order.receipt = print_receipt.enqueue(order.pk).id
    order.save()
    if order.cake == "carrots":
        raise ValueError("we only bake")
    return JsonResponse({"order": order.pk}, status=201)


def show(_: HttpRequest, number: int) -> HttpResponse:
    order = get_object_or_404(Order, pk=number)
    receipt = print_receipt.get_result(order.receipt)
    return JsonResponse({"cake": order.cake, "bills": order.bills.count(), "receipt": receipt.status})
