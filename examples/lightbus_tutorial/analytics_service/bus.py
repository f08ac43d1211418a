"""A service with Django: its worker uses models as the web server does. Run `pgbus run` here."""

import os

import django

import pgbus
from pgbus import Api, Event, EventMessage
from pgbus.contrib.django import uses_django_db


class AnalyticsApi(Api):
    page_viewed = Event(parameters=("url",))

    class Meta:
        name = "analytics"

    @uses_django_db
    def get_total(self, url: str) -> int:
        from analytics.models import CountedView

        return CountedView.objects.filter(url=url).count()


bus = pgbus.create(service_name="analytics")
bus.client.register_api(AnalyticsApi())


@uses_django_db
def handle_page_viewed(event: EventMessage, url: str) -> None:
    from analytics.models import CountedView

    # An event may come again after a crash, and is to be counted once.
    CountedView.objects.get_or_create(event_id=event.id, defaults={"url": url})


def on_start() -> None:
    # In the worker only: the web server sets Django up for itself. Before that, no model can be imported.
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
    django.setup()
    # `since`: also the views from before this listener was first known are counted.
    bus.analytics.page_viewed.listen(handle_page_viewed, listener_name="count_views", bus_options={"since": "0"})
