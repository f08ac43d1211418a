"""The part of a bus that publishes, as its users see it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Unpack
from uuid import UUID

from pgbus.database.adapters import AsyncUsing, SyncUsing
from pgbus.messages import EventMessage, PublishOptions
from pgbus.publishing.sender import Sender


class PublishingVerbs:
    """Publishes events, and cancels scheduled ones."""

    _sender: Sender

    async def publish(
        self,
        event: object,
        *,
        topic: str | None = None,
        using: AsyncUsing | None = None,
        require_transaction: bool | None = None,
        **options: Unpack[PublishOptions],
    ) -> EventMessage:
        """Publish an event in the transaction of `using`, or durably at once without it; returns it with its id.

        - `event`: an instance of an event class; or, with `topic`, anything that is JSON.
        - `using`: an asyncpg, psycopg or SQLAlchemy async connection or session.
        - `require_transaction`: raise ConnectionUnusableError, and do not only warn, where no transaction of `using` is
          open; default: the setting of that name, which is off.
        - `options`: those of PublishOptions.

        Raises InvalidEventError before anything is sent, as InvalidEventArguments for a field of an event class that is
        not of its type, unless `validate` of the API is off; TransactionAbortedError, ConnectionUnusableError. Without
        `using` also DatabaseUnreachableError; OutcomeUnknownError if the connection was lost while the event was sent.
        """
        return await self._sender.publish(
            event, topic=topic, using=using, require_transaction=require_transaction, **options
        )

    def publish_sync(
        self,
        event: object,
        *,
        topic: str | None = None,
        using: SyncUsing | None = None,
        require_transaction: bool | None = None,
        timeout: float | None = None,
        **options: Unpack[PublishOptions],
    ) -> EventMessage:
        """`publish` for code that blocks; `using` is a psycopg Connection, or SQLAlchemy's Session or Connection.

        Without `using` it raises CannotBlockHere on the thread of a running event loop, and PublishTimeout if it is
        not done after `timeout` seconds; default: it waits for as long as it takes.
        """
        return self._sender.publish_sync(
            event, topic=topic, using=using, require_transaction=require_transaction, timeout=timeout, **options
        )

    async def publish_many(
        self,
        events: Iterable[object],
        *,
        topic: str | None = None,
        using: AsyncUsing | None = None,
        require_transaction: bool | None = None,
    ) -> list[UUID]:
        """Publish events in bulk, in one transaction, up to 2,000 per statement; returns their ids in order.

        All of them are checked before the first is sent. Raises what `publish` raises; then none is published, or with
        OutcomeUnknownError all or none. In a transaction of `using` it is for the caller to roll back.
        """
        return await self._sender.publish_many(
            events, topic=topic, using=using, require_transaction=require_transaction
        )

    def publish_many_sync(
        self,
        events: Iterable[object],
        *,
        topic: str | None = None,
        using: SyncUsing | None = None,
        require_transaction: bool | None = None,
    ) -> list[UUID]:
        """`publish_many` for code that blocks."""
        return self._sender.publish_many_sync(events, topic=topic, using=using, require_transaction=require_transaction)

    async def cancel(self, event_id: UUID | str, *, using: AsyncUsing | None = None) -> bool:
        """Cancel a scheduled event that is not yet due; false if there is no such event, or it is due by now.

        Raises InvalidEventError for what is not a UUID; and as `publish` does for `using`, or without it.
        """
        return await self._sender.cancel(event_id, using=using)

    def cancel_sync(self, event_id: UUID | str, *, using: SyncUsing | None = None) -> bool:
        """`cancel` for code that blocks."""
        return self._sender.cancel_sync(event_id, using=using)
