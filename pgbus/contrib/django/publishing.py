"""Publishing in the transaction of Django's connection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Unpack
from uuid import UUID

from asgiref.sync import sync_to_async

from pgbus.database.adapters.django import connection_of
from pgbus.messages import EventMessage, PublishOptions


def publish(
    event: object,
    *,
    topic: str | None = None,
    using: Any = None,
    require_transaction: bool | None = None,
    **options: Unpack[PublishOptions],
) -> EventMessage:
    """Publish an event through Django's own connection; returns it with its id.

    Within `atomic` (also that of ATOMIC_REQUESTS) the event exists if and only if that commits; a savepoint that is
    rolled back takes it along. Outside, it is published at once, and a NoTransactionWarning says so.

    - `event`: an instance of an event class; or, with `topic`, anything that is JSON.
    - `using`: the alias of a database, or a connection; default: PGBUS["DATABASE"].
    - `require_transaction`: outside of `atomic`, raise ConnectionUnusableError; default: PGBUS["REQUIRE_TRANSACTION"].
    - `options`: those of PublishOptions.

    Raises what `Bus.publish_sync` does.
    """
    bus = _bus()
    connection = _connection(bus, using)
    return bus.publish_sync(event, topic=topic, using=connection, require_transaction=require_transaction, **options)


def publish_many(
    events: Iterable[object], *, topic: str | None = None, using: Any = None, require_transaction: bool | None = None
) -> list[UUID]:
    """`publish` for many events, a few thousand per statement; returns their ids in order."""
    bus = _bus()
    connection = _connection(bus, using)
    return bus.publish_many_sync(events, topic=topic, using=connection, require_transaction=require_transaction)


async def apublish(
    event: object,
    *,
    topic: str | None = None,
    using: Any = None,
    require_transaction: bool | None = None,
    **options: Unpack[PublishOptions],
) -> EventMessage:
    """`publish` for async code, in the thread where Django runs its queries.

    `atomic` is a thread's, and cannot be entered by async code: to write rows and an event together, write a plain
    function with `atomic` that does both, and await it by `sync_to_async`.
    """
    return await sync_to_async(publish)(
        event, topic=topic, using=using, require_transaction=require_transaction, **options
    )


def _bus() -> Any:
    from pgbus.contrib.django.project import get_bus  # needs Django's settings, which our importers may not have yet

    return get_bus()


def _connection(bus: Any, using: Any) -> Any:
    return connection_of(bus.project.database if using is None else using)
