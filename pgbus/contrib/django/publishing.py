"""Publishing in the transaction of Django's connection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Unpack
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db.transaction import TransactionManagementError

from pgbus.database.adapters.django import connection_of, in_atomic
from pgbus.messages import EventMessage, PublishOptions


def publish(
    event: object,
    *,
    topic: str | None = None,
    using: Any = None,
    require_atomic: bool | None = None,
    **options: Unpack[PublishOptions],
) -> EventMessage:
    """Publish an event through Django's own connection; returns it with its id.

    Within `atomic` (also that of ATOMIC_REQUESTS) the event exists if and only if that commits; a savepoint that is
    rolled back takes it along. Outside, it is published at once, and a NoTransactionWarning says so.

    - `event`: an instance of an event class; or, with `topic`, anything that is JSON.
    - `using`: the alias of a database, or a connection; default: PGBUS["DATABASE"].
    - `require_atomic`: outside of `atomic`, raise TransactionManagementError; default: PGBUS["REQUIRE_ATOMIC"].
    - `options`: those of PublishOptions.

    Raises what `Bus.publish_sync` does.
    """
    bus, connection = _bus(), _connection(using, require_atomic=require_atomic)
    return bus.publish_sync(event, topic=topic, using=connection, **options)


def publish_many(
    events: Iterable[object], *, topic: str | None = None, using: Any = None, require_atomic: bool | None = None
) -> list[UUID]:
    """`publish` for many events, a few thousand per statement; returns their ids in order."""
    bus, connection = _bus(), _connection(using, require_atomic=require_atomic)
    return bus.publish_many_sync(events, topic=topic, using=connection)


async def apublish(
    event: object,
    *,
    topic: str | None = None,
    using: Any = None,
    require_atomic: bool | None = None,
    **options: Unpack[PublishOptions],
) -> EventMessage:
    """`publish` for async code, in the thread where Django runs its queries.

    `atomic` is a thread's, and cannot be entered by async code: to write rows and an event together, write a plain
    function with `atomic` that does both, and await it by `sync_to_async`.
    """
    return await sync_to_async(publish)(event, topic=topic, using=using, require_atomic=require_atomic, **options)


def _bus() -> Any:
    from pgbus.contrib.django.project import get_bus  # needs Django's settings, which our importers may not have yet

    return get_bus()


def _connection(using: Any, *, require_atomic: bool | None) -> Any:
    project = _bus().project
    connection = connection_of(project.database if using is None else using)
    is_required = project.require_atomic if require_atomic is None else require_atomic
    if is_required and not in_atomic(connection):
        raise TransactionManagementError(
            f"an event is published outside of a transaction: publish it, and write its rows, within "
            f"`with transaction.atomic(using={connection.alias!r})`"
        )
    return connection
