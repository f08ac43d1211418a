"""The contexts that handlers, tasks and middleware get, with details of the event, run or call."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, Unpack
from uuid import UUID

from pgbus.causality import Cause, Origin, read_headers
from pgbus.handlers.signatures import ContextMarker
from pgbus.messages import EventMessage, PublishOptions
from pgbus.topics import split_name


class ContextOptions(PublishOptions, total=False):
    """The options of `Context.publish`; see `Bus.publish`."""

    topic: str | None
    using: Any
    require_transaction: bool | None


class ContextSyncOptions(ContextOptions, total=False):
    """The options of `Context.publish_sync`; see `Bus.publish_sync`."""

    timeout: float | None


class Publishes(Protocol):
    """Publishes for a context: a bus, or what publishes for it."""

    async def publish(self, event: object, **options: Unpack[ContextOptions]) -> EventMessage:
        """Publish an event; see `Bus.publish`."""
        ...

    def publish_sync(self, event: object, **options: Unpack[ContextSyncOptions]) -> EventMessage:
        """Publish an event from blocking code; see `Bus.publish_sync`."""
        ...


class Context(ContextMarker):
    """The details of an attempt at an event; passed to a handler's parameter annotated `pgbus.Context`.

    `events` are the stored events of this call: one, or those of a batch. `attempt` is 1 for the first.
    `connection` is the open connection or session of a transactional handler, else None.
    """

    __slots__ = ("_sender", "attempt", "connection", "events", "listener_name")

    def __init__(
        self,
        *,
        events: Sequence[EventMessage],
        attempt: int,
        listener_name: str,
        connection: Any = None,
        sender: Publishes,
    ) -> None:
        self.events = events
        self.attempt = attempt
        self.listener_name = listener_name
        self.connection = connection
        self._sender = sender

    @property
    def event(self) -> EventMessage:
        """The stored event; the first one of a batch."""
        return self.events[0]

    @property
    def cause(self) -> Cause:
        """The cause of what this handler publishes and calls: its `correlation_id`, and W3C's trace context."""
        return self.event.cause

    @property
    def correlation_id(self) -> str:
        """The same for all that one request, event or run has brought about."""
        return self.event.correlation_id

    @property
    def causation_id(self) -> str | None:
        """The id of the event, call or run whose handler published this event; None for a root."""
        return self.event.causation_id

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose records have `listener_name`, `event_id`, `topic`, `attempt` and `correlation_id`."""
        extra = {
            "listener_name": self.listener_name,
            "event_id": str(self.event.event_id),
            "topic": self.event.topic,
            "attempt": self.attempt,
            "correlation_id": self.correlation_id,
        }
        return logging.LoggerAdapter(logging.getLogger(f"pgbus.listener.{self.listener_name}"), extra)

    async def publish(self, event: object, **options: Unpack[ContextOptions]) -> EventMessage:
        """`Bus.publish`; in a transactional handler the event joins the handler's transaction."""
        if self.connection is not None:
            options.setdefault("using", self.connection)
        return await self._sender.publish(event, **options)

    def publish_sync(self, event: object, **options: Unpack[ContextSyncOptions]) -> EventMessage:
        """`Bus.publish_sync`, for plain functions; in a transactional handler the event joins its transaction."""
        if self.connection is not None:
            options.setdefault("using", self.connection)
        return self._sender.publish_sync(event, **options)


@dataclass(frozen=True, slots=True)
class TaskContext:
    """The details of a schedule's run; passed to a task's parameter annotated `pgbus.TaskContext`.

    `due_at` is when the run was due, which may be long ago for one that was missed. `attempt` is 1 unless the run was
    begun before, by a worker that died or stopped. `run_id` is the run's in `schedule_history`.
    """

    schedule_name: str
    due_at: datetime
    attempt: int
    run_id: UUID

    @property
    def cause(self) -> Cause:
        """The cause of what this run publishes and calls: its `correlation_id`, and W3C's trace context."""
        return Origin(self.run_id).cause


@dataclass(frozen=True, slots=True)
class CallContext:
    """A call that a procedure is about to execute.

    `procedure` is its name, as `api.procedure`. `arguments` are decoded into its annotations, and may be changed.
    `raw_headers` are the call's headers as JSON text, if it has any.
    """

    procedure: str
    arguments: dict[str, object]
    call_id: UUID
    raw_headers: str | None = None

    @property
    def headers(self) -> Mapping[str, str]:
        """The call's headers: why it was made, and W3C's trace context; empty for a root."""
        return read_headers(self.raw_headers)

    @property
    def cause(self) -> Cause:
        """The cause of what this call publishes and calls: its `correlation_id`, and W3C's trace context."""
        return Origin(self.call_id, self.raw_headers).cause

    @property
    def api_name(self) -> str:
        """The procedure's name up to its last dot."""
        return split_name(self.procedure)[0]

    @property
    def procedure_name(self) -> str:
        """The last word of the procedure's name."""
        return split_name(self.procedure)[1]

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose records have `procedure` and `call_id`."""
        extra = {"procedure": self.procedure, "call_id": str(self.call_id)}
        return logging.LoggerAdapter(logging.getLogger(f"pgbus.procedure.{self.procedure}"), extra)
