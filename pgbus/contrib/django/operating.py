"""The actions of Django's admin, which run in Django's own transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

from django.db import transaction

from pgbus.contrib.django.project import get_bus
from pgbus.database.adapters.django import DjangoExecutor
from pgbus.database.statements import operating

T = TypeVar("T")


def retry_dead(ids: Iterable[int]) -> int:
    """Owe the events of these dead letters to their listeners again, due at once; how many there were."""
    return _change(lambda executor, namespace: operating.retry_dead_letters(executor, list(ids), namespace=namespace))


def discard_dead(ids: Iterable[int]) -> int:
    """Remove these dead letters for good; how many there were."""
    return _change(lambda executor, namespace: operating.discard_dead_letters(executor, list(ids), namespace=namespace))


def set_state(listener_names: Iterable[str], state: Literal["active", "paused"]) -> None:
    """Pause listeners, or have them continue."""
    _change(
        lambda executor, namespace: operating.set_listener_states(executor, listener_names, state, namespace=namespace)
    )


def _change(change: Callable[[DjangoExecutor, str], T]) -> T:
    bus = get_bus()
    with transaction.atomic(using=bus.project.database):
        return change(DjangoExecutor(bus.project.database), bus.config.namespace)
