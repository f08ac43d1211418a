"""Found by the app of pgbus."""

from pgbus.contrib.django import bus, publish
from tests.support.django_project.warehouse.events import ItemCounted, ItemStored
from tests.support.django_project.warehouse.models import Arrival


@bus.listener(ItemStored, name="note_item", retry=2)
def note_item(event: ItemStored) -> None:
    if event.name == "broken":
        raise ValueError("this item is broken")
    Arrival.objects.create(item=event.name, listener="note_item")


@bus.listener(ItemStored, name="note_item_async", retry=1)
async def note_item_async(event: ItemStored) -> None:
    await Arrival.objects.acreate(item=event.name, listener="note_item_async")


@bus.listener(ItemStored, name="count_item", transactional=True, retry=1)
def count_item(event: ItemStored) -> None:
    Arrival.objects.create(item=event.name, listener="count_item")
    publish(ItemCounted(event.name))
    if event.name == "uncountable":
        raise ValueError("this item cannot be counted")


@bus.listener(ItemCounted, name="note_count", retry=1)
def note_count(event: ItemCounted) -> None:
    Arrival.objects.create(item=event.name, listener="note_count")


@bus.procedure("warehouse.stock")
def stock(item: str) -> int:
    return Arrival.objects.filter(item=item).count()
