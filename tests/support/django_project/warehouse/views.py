from asgiref.sync import sync_to_async
from django.db import transaction
from django.http import HttpRequest, HttpResponse

from pgbus.contrib.django import apublish, publish
from tests.support.django_project.warehouse.events import ItemStored
from tests.support.django_project.warehouse.models import Item


def items(request: HttpRequest) -> HttpResponse:
    name = request.GET["name"]
    Item.objects.create(name=name)
    publish(ItemStored(name))
    if "fail" in request.GET:
        raise ValueError("the view fails after it has published")
    return HttpResponse(name)


async def async_items(request: HttpRequest) -> HttpResponse:
    name = request.GET["name"]
    if "alone" in request.GET:
        return HttpResponse(str((await apublish(ItemStored(name))).event_id))
    await sync_to_async(store)(name)
    return HttpResponse(name)


@transaction.atomic
def store(name: str) -> None:
    Item.objects.create(name=name)
    publish(ItemStored(name))
