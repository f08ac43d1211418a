"""The actions of Django's admin, which run in Django's own transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

from django.db import transaction

from pgbus.contrib.django.project import get_bus
from pgbus.database.adapters.django import DjangoExecutor
from pgbus.database.statements import operating

T = TypeVar("T")


def retry_dead(ids: Iterable[int], *, person: str | None = None) -> int:
    """Owe the events of these dead letters to their listeners again, due at once; how many there were.

    `person` is who does it, for the operation that records it.
    """
    return _change(
        lambda executor, name: operating.retry_dead_letters(executor, list(ids), person=person, namespace=name)
    )


def discard_dead(ids: Iterable[int], *, person: str | None = None) -> int:
    """Remove these dead letters for good; how many there were."""
    return _change(
        lambda executor, name: operating.discard_dead_letters(executor, list(ids), person=person, namespace=name)
    )


def set_state(listener_names: Iterable[str], state: Literal["active", "paused"], *, person: str | None = None) -> None:
    """Pause listeners, or have them continue."""
    _change(
        lambda executor, name: operating.set_listener_states(
            executor, listener_names, state, person=person, namespace=name
        )
    )


def _change(change: Callable[[DjangoExecutor, str], T]) -> T:
    bus = get_bus()
    with transaction.atomic(using=bus.project.database):
        return change(DjangoExecutor(bus.project.database), bus.config.namespace)
