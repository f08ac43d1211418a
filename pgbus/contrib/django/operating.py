"""What a person does in the admin, in Django's own transaction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from django.db import transaction

from pgbus.contrib.django.project import get_bus
from pgbus.database import channels
from pgbus.database.adapters.django import DjangoExecutor
from pgbus.database.sql import load


def retry_dead(ids: Iterable[int]) -> int:
    """Owe the events of these dead letters to their listeners again, due at once; how many there were."""
    return _settle_dead("retry_dead_letters", ids)


def discard_dead(ids: Iterable[int]) -> int:
    """Remove these dead letters for good; how many there were."""
    return _settle_dead("discard_dead_letters", ids)


def set_state(listener_names: Iterable[str], state: Literal["active", "paused"]) -> None:
    """Pause listeners, or have them go on."""
    with _Change() as run:
        for name in sorted(listener_names):  # in one order, so that two people do not lock each other out
            for (listener_id,) in run("lock_listener", listener_name=name):
                run("set_listener_state", listener_id=listener_id, state=state)


def _settle_dead(statement: str, ids: Iterable[int]) -> int:
    values = {"ids": list(ids)}
    with _Change() as run:
        run("lock_dead_letters", **values)
        return len(run(statement, **values))


class _Change:
    """A transaction after which the workers read the listeners again; it gives what runs a named statement in it."""

    def __init__(self) -> None:
        bus = get_bus()
        self._namespace = bus.config.namespace
        self._atomic = transaction.atomic(using=bus.project.database)
        self._executor = DjangoExecutor(bus.project.database)

    def __enter__(self) -> Any:
        self._atomic.__enter__()
        return self._run

    def __exit__(self, *raised: Any) -> None:
        if raised[0] is None:
            self._run("notify_workers", channel=channels.work(self._namespace))
        self._atomic.__exit__(*raised)

    def _run(self, name: str, **values: object) -> Any:
        return self._executor.fetch(load(self._namespace)[name], values)
