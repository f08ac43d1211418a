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

    # An event may be delivered again after a crash, and must be counted once.
    CountedView.objects.get_or_create(event_id=event.id, defaults={"url": url})


def on_start() -> None:
    # Only in the worker: the web server sets up Django itself. No model can be imported before that.
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
    django.setup()
    # `since`: views from before the listener was registered are counted, too.
    bus.analytics.page_viewed.listen(handle_page_viewed, listener_name="count_views", bus_options={"since": "0"})
