"""A bus that is bound to one connection or session, which its user therefore cannot forget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Unpack
from uuid import UUID

from pgbus.api.client import BusClient
from pgbus.database.adapters import AsyncUsing, SyncUsing, check_using
from pgbus.messages import EventMessage, PublishOptions
from pgbus.rpc.calls import CallingVerbs
from pgbus.topics import split_name


class BoundBus(CallingVerbs):
    """A bus that publishes in the transaction of one session or connection. `bus.bind(session)` returns it.

    With an async session or connection, use the methods that are awaited; with a blocking one, those in `_sync`. Raises
    ConnectionUnusableError for anything else, and names what to pass instead.
    """

    def __init__(
        self, using: AsyncUsing | SyncUsing, *, client: BusClient, require_transaction: bool | None = None
    ) -> None:
        check_using(using)
        self.using: Any = using
        self._require_transaction = require_transaction
        self._client = client
        self._sender = client.sender
        self._calls = client.calls

    async def publish(
        self, event: object, *, topic: str | None = None, **options: Unpack[PublishOptions]
    ) -> EventMessage:
        """Publish an event in the transaction; see `Bus.publish`."""
        return await self._sender.publish(
            event, topic=topic, using=self.using, require_transaction=self._require_transaction, **options
        )

    def publish_sync(
        self, event: object, *, topic: str | None = None, **options: Unpack[PublishOptions]
    ) -> EventMessage:
        """Publish an event in the transaction, for blocking code; see `Bus.publish_sync`."""
        return self._sender.publish_sync(
            event, topic=topic, using=self.using, require_transaction=self._require_transaction, **options
        )

    async def publish_many(self, events: Iterable[object], *, topic: str | None = None) -> list[UUID]:
        """Publish events in the transaction; see `Bus.publish_many`."""
        return await self._sender.publish_many(
            events, topic=topic, using=self.using, require_transaction=self._require_transaction
        )

    def publish_many_sync(self, events: Iterable[object], *, topic: str | None = None) -> list[UUID]:
        """Publish events in the transaction, for blocking code; see `Bus.publish_many_sync`."""
        return self._sender.publish_many_sync(
            events, topic=topic, using=self.using, require_transaction=self._require_transaction
        )

    async def fire(
        self, name: str, arguments: Mapping[str, object] | None = None, **options: Unpack[PublishOptions]
    ) -> EventMessage:
        """Fire `api.event`, of an API that this process has registered, in the transaction; raises what `BusPath.fire`
        does.
        """
        api_name, event_name = split_name(name)
        return await self._client.fire_event(api_name, event_name, arguments, self._options(options))

    def fire_sync(
        self, name: str, arguments: Mapping[str, object] | None = None, **options: Unpack[PublishOptions]
    ) -> EventMessage:
        """`fire` for code that blocks."""
        api_name, event_name = split_name(name)
        return self._client.fire_event_sync(api_name, event_name, arguments, self._options(options))

    async def cancel(self, event_id: UUID | str) -> bool:
        """Cancel a scheduled event in the transaction; see `Bus.cancel`."""
        return await self._sender.cancel(event_id, using=self.using)

    def cancel_sync(self, event_id: UUID | str) -> bool:
        """Cancel a scheduled event in the transaction, for blocking code; see `Bus.cancel_sync`."""
        return self._sender.cancel_sync(event_id, using=self.using)

    def _options(self, options: PublishOptions) -> dict[str, object]:
        return {**options, "using": self.using, "require_transaction": self._require_transaction}
