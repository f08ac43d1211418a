"""The Django app: it finds each app's `listeners.py`, and keeps the bus's schema up to date with `migrate`."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db.backends.signals import connection_created
from django.db.models.signals import post_migrate
from django.utils.module_loading import autodiscover_modules

from pgbus.contrib.django.project import get_bus
from pgbus.contrib.django.settings import dsn_of
from pgbus.migrate import upgrade


class PgbusConfig(AppConfig):
    """The configuration of the app `pgbus.contrib.django` in INSTALLED_APPS."""

    name = "pgbus.contrib.django"
    label = "pgbus"
    verbose_name = "Event bus"

    def ready(self) -> None:
        """Declare what the apps declare: listeners and procedures in `listeners.py`, and the tasks of TASKS."""
        from pgbus.contrib.django.task_frameworks import declare_task_listeners

        connection_created.connect(get_bus().follow)
        post_migrate.connect(upgrade_bus, sender=self)
        autodiscover_modules("listeners")
        declare_task_listeners()


def upgrade_bus(*, using: str, **told: Any) -> None:
    """Upgrade the bus's schema at the end of `migrate`, in the database of the bus, including a test's database."""
    bus = get_bus()
    # `flush`, after each TransactionTestCase, sends the signal as well, and has changed no schema.
    if using == bus.project.database and "plan" in told:
        upgrade(dsn_of(bus.project.direct_database or using), namespace=bus.config.namespace)
