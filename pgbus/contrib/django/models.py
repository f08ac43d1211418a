"""Unmanaged models of the bus's tables and views: for the admin, and for whatever a project wants to ask."""

from __future__ import annotations

from django.db import models

from pgbus.contrib.django.project import get_bus
from pgbus.database.sql import quote_identifier


def _table(name: str) -> str:
    """A table's name with its schema, quoted, because Django leaves a name that is quoted already as it is."""
    return f"{quote_identifier(get_bus().config.namespace)}.{quote_identifier(name)}"


class InTheBusDatabase(models.Manager):
    """Reads from the database that has the bus, whatever the routers say of other models."""

    def get_queryset(self) -> models.QuerySet:
        """Return all rows of the view or table."""
        return super().get_queryset().using(get_bus().project.database)


class OfTheBus(models.Model):
    """A row of the bus: read, and changed only by pgbus."""

    objects = InTheBusDatabase()

    class Meta:
        """Neither `migrate` nor `makemigrations` has to do with it."""

        abstract = True
        managed = False


class Event(OfTheBus):
    """An event in the log."""

    position = models.BigIntegerField(primary_key=True)
    event_id = models.UUIDField()
    topic = models.TextField()
    key = models.TextField(null=True)
    payload = models.JSONField()
    headers = models.JSONField(null=True)
    published_at = models.DateTimeField()
    deliver_at = models.DateTimeField(null=True)
    logged_at = models.DateTimeField()

    class Meta(OfTheBus.Meta):
        """An unmanaged model of the table `events`."""

        db_table = _table("events")
        ordering = ("-position",)

    def __str__(self) -> str:
        return f"{self.topic} {self.event_id}"


class Attempt(OfTheBus):
    """One attempt at one event by one listener."""

    # No row of the view has a key of its own; Django wants one, and none of these is looked up by it.
    position = models.BigIntegerField(primary_key=True)
    event_id = models.UUIDField()
    listener_name = models.TextField(null=True)
    attempt = models.IntegerField(null=True)
    outcome = models.TextField(null=True)
    started_at = models.DateTimeField(null=True)
    duration = models.FloatField(null=True)
    worker = models.TextField(null=True)
    error = models.TextField(null=True)

    class Meta(OfTheBus.Meta):
        """An unmanaged model of the view `event_history`."""

        db_table = _table("event_history")
        ordering = ("started_at", "attempt")

    def __str__(self) -> str:
        return f"{self.listener_name}, attempt {self.attempt}: {self.outcome}"


class DeadLetter(OfTheBus):
    """An event that a listener gave up on."""

    id = models.BigIntegerField(primary_key=True)
    listener_name = models.TextField()
    position = models.BigIntegerField()
    event_id = models.UUIDField()
    topic = models.TextField()
    key = models.TextField(null=True)
    payload = models.JSONField()
    headers = models.JSONField(null=True)
    published_at = models.DateTimeField()
    attempts = models.IntegerField()
    error = models.TextField()
    traceback = models.TextField(null=True)
    worker = models.TextField()
    dead_at = models.DateTimeField()

    class Meta(OfTheBus.Meta):
        """An unmanaged model of the view `dead`."""

        db_table = _table("dead")
        ordering = ("-dead_at", "-id")

    def __str__(self) -> str:
        return f"{self.topic} at {self.listener_name}: {self.error}"


class Listener(OfTheBus):
    """A listener, and what is owed to it."""

    listener_name = models.TextField(primary_key=True)
    state = models.TextField()
    service = models.TextField()
    last_seen_at = models.DateTimeField()
    lag_events = models.BigIntegerField()
    lag_seconds = models.FloatField()
    in_flight = models.BigIntegerField()
    retrying = models.BigIntegerField()
    blocked = models.BigIntegerField()
    dead = models.BigIntegerField()

    class Meta(OfTheBus.Meta):
        """An unmanaged model of the view `listener_lag`."""

        db_table = _table("listener_lag")
        ordering = ("listener_name",)

    def __str__(self) -> str:
        return str(self.listener_name)


class Pending(OfTheBus):
    """A run of events that are owed to a listener."""

    delivery_id = models.BigIntegerField(primary_key=True)
    listener_name = models.TextField()
    first_position = models.BigIntegerField()
    last_position = models.BigIntegerField()
    events = models.IntegerField()
    attempt = models.IntegerField()
    available_at = models.DateTimeField(null=True)
    worker = models.TextField(null=True)
    last_error = models.TextField(null=True)
    state = models.TextField()

    class Meta(OfTheBus.Meta):
        """An unmanaged model of the view `pending`."""

        db_table = _table("pending")
        ordering = ("first_position",)

    def __str__(self) -> str:
        return f"{self.events} events for {self.listener_name}: {self.state}"


class Published(OfTheBus):
    """An event that is not yet in the log: it was published a moment ago, or is scheduled."""

    id = models.BigIntegerField(primary_key=True)
    event_id = models.UUIDField()
    topic = models.TextField()
    key = models.TextField(null=True)
    payload = models.JSONField()
    headers = models.JSONField(null=True)
    published_at = models.DateTimeField()
    deliver_at = models.DateTimeField(null=True)

    class Meta(OfTheBus.Meta):
        """An unmanaged model of the table `outbox`."""

        db_table = _table("outbox")
        ordering = ("id",)

    def __str__(self) -> str:
        return f"{self.topic} {self.event_id}"
