"""A Django project for tests, in this process: an app with a model, listeners and tasks, and the app of pgbus."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import django
from django.apps import apps
from psycopg.conninfo import conninfo_to_dict

KEYWORDS = {"NAME": "dbname", "HOST": "host", "PORT": "port", "USER": "user", "PASSWORD": "password"}


def setup() -> None:
    """Set Django up, once: a test module may then import models."""
    if not apps.ready:
        os.environ["DJANGO_SETTINGS_MODULE"] = f"{__name__}.settings"
        django.setup()
        del os.environ["DJANGO_SETTINGS_MODULE"]  # programs that other tests start have settings of their own


def migrate() -> None:
    """Make the project's tables, and those of the bus."""
    from django.core.management import call_command

    call_command("migrate", run_syncdb=True, verbosity=0)


@contextmanager
def in_database(dsn: str) -> Iterator[None]:
    """Have Django use a database, through every alias, while the block runs."""
    setup()
    from django.db import connections

    from pgbus.contrib.django import bus

    found = conninfo_to_dict(dsn)
    place = {key: str(found.get(name) or "") for key, name in KEYWORDS.items()}
    connections.close_all()
    for alias in connections:
        connections.settings[alias].update(place)
    try:
        yield
    finally:
        connections.close_all()
        bus.close_sync()
