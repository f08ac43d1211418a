"""Sends events: checked, between hooks, into the transaction of `using`, or durably at once in one of the bus's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, Unpack
from uuid import UUID

from pgbus.aio.blocking import BlockingCalls, refuse_to_block
from pgbus.aio.loopbound import LoopBound
from pgbus.config import Config
from pgbus.database.adapters import AsyncExecutor, AsyncUsing, SyncExecutor, SyncUsing, async_executor, sync_executor
from pgbus.database.sql import Statement, load
from pgbus.database.statements.bound import Bound
from pgbus.database.store import Store
from pgbus.errors import ConnectionUnusableError, PublishTimeout
from pgbus.handlers.hooks import Hooks
from pgbus.messages import EventMessage, OpenEvent, PublishOptions
from pgbus.publishing import hooks, outbox
from pgbus.publishing.outbox import Limits
from pgbus.publishing.publisher import Publisher
from pgbus.publishing.rows import OutboxRow, Part, in_parts


class OutboxDouble(Protocol):
    """Takes the events that a bus publishes in place of the outbox, in a test; called from any thread."""

    def insert(self, rows: Sequence[OutboxRow]) -> list[UUID]:
        """For each row, the id of the event that stands for it."""
        ...

    def cancel(self, event_id: UUID | str) -> bool:
        """Whether there was such a scheduled event."""
        ...


class _Nowhere:
    """Stands for a connection of `using`, which is not used, because a double takes the events."""

    def fetch(self, statement: Statement, values: Mapping[str, object]) -> Sequence[Sequence[Any]]:  # noqa: ARG002 - as SyncExecutor's
        """Run no statement, and return no rows."""
        return []


_NOWHERE = _Nowhere()


class Sender:
    """Publishes for one bus, from any event loop and from blocking code; for the options see `Bus`.

    `on_open` is awaited when a connection of its own is there, before anything is published on it; `on_sent` is called
    after each try to publish, which may have been committed also when it failed. `config` may be replaced while no
    connection is open.
    """

    def __init__(
        self,
        config: Config,
        *,
        hooks: Hooks,
        blocking: BlockingCalls,
        on_open: Callable[[Store], Awaitable[None]],
        on_sent: Callable[[], None],
    ) -> None:
        self.config = config
        self._on_sent = on_sent
        self._hooks = hooks
        self._blocking = blocking
        self._limits = Limits(
            max_payload=config.max_payload, is_checked=lambda api_name: config.api(api_name).validate_outgoing
        )
        # One for each event loop: a connection works on the loop that opened it, and on no other.
        self._publishers = LoopBound(lambda: Publisher(self.config, on_open=on_open))
        # Set by `doubled_by` alone, in a test; threads that publish read it.
        self._double: OutboxDouble | None = None
        # Set while a test has `joining`: what is published without `using` then goes into its transaction.
        self._joined: AsyncExecutor | None = None

    # ------------------------------------------------------------------------------------------------ publishing

    async def publish(
        self,
        event: object,
        *,
        topic: str | None = None,
        using: AsyncUsing | None = None,
        require_transaction: bool | None = None,
        **options: Unpack[PublishOptions],
    ) -> EventMessage:
        """Publish an event; see `Bus.publish`."""
        if using is not None and self._is_plain(options):
            message, bound = self._plain(event, topic, options)
            into = async_executor(using, require_transaction=self._requires(require_transaction))
            try:
                await into.fetch(*bound)
            finally:
                self._on_sent()
            return message
        row = outbox.prepare(event, topic=topic, limits=self._limits, **options)
        # Judged before any hook runs: a hook must not act on an event that then cannot be sent.
        executor = self._executor(using, require_transaction)
        if self._hooks.on_sending:
            return (await self._send([row], executor, in_bulk=False))[0]
        return row.message((await self._insert((row,), executor))[0])

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
        """Publish an event from blocking code; see `Bus.publish_sync`."""
        if using is not None and self._is_plain(options):
            message, bound = self._plain(event, topic, options)
            into = sync_executor(using, require_transaction=self._requires(require_transaction))
            try:
                into.fetch(*bound)
            finally:
                self._on_sent()
            return message
        row = outbox.prepare(event, topic=topic, limits=self._limits, **options)
        executor = self._sync_executor(using, require_transaction)
        if self._hooks.on_sending:
            return self._send_sync([row], executor, "publish", timeout=timeout)[0]
        return row.message(self._insert_sync((row,), executor, "publish", timeout=timeout)[0])

    async def publish_many(
        self,
        events: Iterable[object],
        *,
        topic: str | None = None,
        using: AsyncUsing | None = None,
        require_transaction: bool | None = None,
    ) -> list[UUID]:
        """Publish events with one statement; see `Bus.publish_many`."""
        parts = outbox.prepare_many(events, topic=topic, limits=self._limits)
        executor = self._executor(using, require_transaction)
        if self._hooks.on_sending:
            return [message.event_id for message in await self._send(_rows(parts), executor, in_bulk=True)]
        return await self._insert(parts, executor)

    def publish_many_sync(
        self,
        events: Iterable[object],
        *,
        topic: str | None = None,
        using: SyncUsing | None = None,
        require_transaction: bool | None = None,
    ) -> list[UUID]:
        """Publish events from blocking code; see `Bus.publish_many_sync`."""
        parts = outbox.prepare_many(events, topic=topic, limits=self._limits)
        executor = self._sync_executor(using, require_transaction)
        if self._hooks.on_sending:
            return [message.event_id for message in self._send_sync(_rows(parts), executor, "publish_many")]
        return self._insert_sync(parts, executor, "publish_many")

    async def cancel(self, event_id: UUID | str, *, using: AsyncUsing | None = None) -> bool:
        """Cancel a scheduled event; see `Bus.cancel`."""
        statement, values = outbox.cancel(event_id, load(self.config.namespace))
        if self._double:
            return self._double.cancel(event_id)
        if executor := self._executor(using, None):
            return bool(await executor.fetch(statement, values))
        return bool(await self._publishers.here().execute(statement, values))

    def cancel_sync(self, event_id: UUID | str, *, using: SyncUsing | None = None) -> bool:
        """Cancel a scheduled event from blocking code; see `Bus.cancel_sync`."""
        statement, values = outbox.cancel(event_id, load(self.config.namespace))
        if self._double:
            return self._double.cancel(event_id)
        if using is None:
            return bool(self._blocking.block(lambda: self.cancel(event_id), "cancel"))
        return bool(sync_executor(using).fetch(statement, values))

    # ------------------------------------------------------------------------------------------------ plain ones

    def _is_plain(self, options: PublishOptions) -> bool:
        """Whether an event has no option but a key, and nothing is to see it before the database does."""
        has_key_alone = not options or (len(options) == 1 and "key" in options)
        return has_key_alone and not self._double and not self._hooks.on_sending

    def _plain(self, event: object, topic: str | None, options: PublishOptions) -> tuple[EventMessage, Bound]:
        config = self.config
        return outbox.prepare_plain(
            event,
            topic=topic,
            key=options.get("key"),
            limits=self._limits,
            statements=load(config.namespace),
            service=config.service_name,
        )

    # --------------------------------------------------------------------------------------------- between hooks

    async def _send(
        self, rows: Sequence[OutboxRow], executor: AsyncExecutor | None, *, in_bulk: bool
    ) -> list[OpenEvent]:
        async def insert(rows: Sequence[OutboxRow]) -> list[UUID]:
            return await self._insert(list(in_parts(rows)), executor)

        return await hooks.send(self._hooks, rows, insert, in_bulk=in_bulk, limits=self._limits)

    def _send_sync(
        self, rows: Sequence[OutboxRow], executor: SyncExecutor | None, call: str, *, timeout: float | None = None
    ) -> list[OpenEvent]:
        if executor is None:
            refuse_to_block(call)
        for moment in (self._hooks.before_event_sent, self._hooks.after_event_sent):
            moment.check_here(call)

        def insert(rows: Sequence[OutboxRow]) -> list[UUID]:
            return self._insert_sync(list(in_parts(rows)), executor, call, timeout=timeout)

        in_bulk = call == "publish_many"
        return hooks.send_here(
            self._hooks, rows, insert, in_bulk=in_bulk, limits=self._limits, block=self._blocking.run
        )

    # ------------------------------------------------------------------------------------------------- inserting

    async def _insert(self, parts: Sequence[Part], executor: AsyncExecutor | None) -> list[UUID]:
        """Insert events; for each, the id of the one that stands for it."""
        if self._double:
            return self._double.insert(_rows(parts))
        try:
            if executor:
                return await self._insert_into(executor, parts)
            publisher = self._publishers.here()
            match parts:
                case (OutboxRow() as row,):
                    return [await publisher.publish(row)]
                case _:
                    return await publisher.publish_all(parts)
        finally:
            self._on_sent()

    async def _insert_into(self, executor: AsyncExecutor, parts: Sequence[Part]) -> list[UUID]:
        # Not tried again, and not in a savepoint: the transaction is the caller's, who decides what an error means for
        # it.
        ids: list[UUID] = []
        for part in parts:
            statement, values = self._bound(part)
            ids += part.ids(await executor.fetch(statement, values))
        return ids

    def _insert_sync(
        self, parts: Sequence[Part], executor: SyncExecutor | None, call: str, *, timeout: float | None = None
    ) -> list[UUID]:
        if executor is None:
            return self._blocking.block(lambda: self._insert_within(timeout, parts), call)
        if self._double:
            return self._double.insert(_rows(parts))
        ids: list[UUID] = []
        try:
            for part in parts:
                statement, values = self._bound(part)
                ids += part.ids(executor.fetch(statement, values))
        finally:
            self._on_sent()
        return ids

    def _bound(self, part: Part) -> Bound:
        config = self.config
        return part.insert(load(config.namespace), service=config.service_name, dedup_ttl=config.dedup_ttl)

    async def _insert_within(self, timeout: float | None, parts: Sequence[Part]) -> list[UUID]:
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                return await self._insert(parts, self._joined)
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise PublishTimeout(parts[0].rows()[0].topic, timeout or 0.0) from error

    def _executor(self, using: AsyncUsing | None, require_transaction: bool | None) -> AsyncExecutor | None:
        """Runs statements in the transaction of `using`; None for a transaction of the bus's own."""
        if self._double:
            return None  # what `using` names is not looked at
        if using is None:
            self._refuse_alone(require_transaction)
            return self._joined
        return async_executor(using, require_transaction=self._requires(require_transaction))

    def _sync_executor(self, using: SyncUsing | None, require_transaction: bool | None) -> SyncExecutor | None:
        """`_executor` for code that blocks."""
        if self._double:
            return None if using is None else _NOWHERE
        if using is None:
            self._refuse_alone(require_transaction)
            return None
        return sync_executor(using, require_transaction=self._requires(require_transaction))

    def _requires(self, given: bool | None) -> bool:
        return self.config.require_transaction if given is None else given

    def _refuse_alone(self, require_transaction: bool | None) -> None:
        """Refuse an event that asks for a transaction by itself; one that stands alone by the setting may do so."""
        if require_transaction:
            raise ConnectionUnusableError("require_transaction needs `using`: pass the connection or session of yours")

    # ----------------------------------------------------------------------------------------------- connections

    async def connect(self) -> None:
        """Open the running loop's connections now; raises DatabaseUnreachableError, and SchemaVersionError."""
        await self._publishers.here().connect()

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        """Run one statement in a transaction of its own; nothing runs, or is found, while a test has a double."""
        return [] if self._double else await self._publishers.here().fetch(query, *args)

    async def close_here(self) -> None:
        """Close what belongs to the running loop."""
        await self._publishers.close_here()

    # --------------------------------------------------------------------------------------------------- testing

    @property
    def has_double(self) -> bool:
        """Whether a test has a double in the database's place."""
        return self._double is not None

    @contextmanager
    def doubled_by(self, double: OutboxDouble) -> Iterator[None]:
        """Give the double all that is published, with `using` and without; may be nested."""
        outer, self._double = self._double, double
        try:
            yield
        finally:
            self._double = outer

    @contextmanager
    def joining(self, transaction: AsyncExecutor) -> Iterator[None]:
        """Publish into a test's transaction what is published without `using`; raises ConnectionUnusableError."""
        if self._joined is not None:
            raise ConnectionUnusableError("the bus is delivering in a transaction already; let it do that first")
        self._joined = transaction
        try:
            yield
        finally:
            self._joined = None


def _rows(parts: Sequence[Part]) -> list[OutboxRow]:
    return [row for part in parts for row in part.rows()]
