"""Tests of a Django project: delivery inside the transaction that Django's TestCase begins, and rolls back."""

from __future__ import annotations

from django.test import TestCase

from pgbus.contrib.django.project import get_bus
from pgbus.testing import Attempt, deliver_now_sync


def deliver_now(*, raise_errors: bool = True) -> list[Attempt]:
    """Run the listeners on what this transaction has published, and on what they publish, until nothing is left.

    All of it happens in the open transaction of the bus's database: handlers run on this thread, with its connection.
    What is scheduled for later stays where it is. With `raise_errors`, what a handler raises comes through at once;
    without, failed events are tried again as the listener's policy says, without its delays. Returns every attempt, in
    order.

    In a TransactionTestCase, where everything is committed, `pgbus.testing.deliver_now_sync(bus)` has a worker do so.
    """
    bus = get_bus()
    return deliver_now_sync(bus, using=bus.project.database, raise_errors=raise_errors)


class BusTestCase(TestCase):
    """Django's TestCase for code that publishes: `self.deliver()` has the listeners hear it."""

    def deliver(self, *, raise_errors: bool = True) -> list[Attempt]:
        """Run listeners and tasks as `deliver_now` does; returns the attempts."""
        return deliver_now(raise_errors=raise_errors)
