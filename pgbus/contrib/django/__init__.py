"""Django: the app, with the project's bus, publishing in Django's transactions, and `manage.py pgbus`."""

from typing import TYPE_CHECKING

from pgbus.contrib.django.connections import uses_django_db
from pgbus.contrib.django.publishing import apublish, publish, publish_many

if TYPE_CHECKING:
    from pgbus.contrib.django.project import DjangoBus

    bus: DjangoBus

__all__ = ["apublish", "bus", "publish", "publish_many", "uses_django_db"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        # Made when it is asked for: it needs Django's settings, and `uses_django_db` may be imported before them.
        if name != "bus":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from pgbus.contrib.django.project import get_bus

        return get_bus()
