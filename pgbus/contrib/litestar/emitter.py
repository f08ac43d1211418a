"""The event emitter backend: `app.emit` publishes on a bus."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from litestar.events import BaseEventEmitterBackend, EventListener
from litestar.exceptions import ImproperlyConfiguredException

from pgbus.bus import Bus
from pgbus.contrib.litestar.listeners import declare_listeners, emission
from pgbus.contrib.litestar.transactions import RequestUnit, current_unit
from pgbus.contrib.litestar.worker import AppWorker
from pgbus.contrib.litestar.writer import Writer
from pgbus.database.adapters.added import AddedTo
from pgbus.errors import ConfigurationError
from pgbus.topics import matches

Role: TypeAlias = Literal["embedded", "producer", "worker"]

DRAIN_TIMEOUT = 10.0


class PgBusEventEmitter(BaseEventEmitterBackend):
    """An emitter on a bus: `Litestar(event_emitter_backend=partial(PgBusEventEmitter, bus=bus))`.

    PgBusPlugin makes one that joins the transactions of requests; by itself, it publishes at once, in the background.

    - `role`: "embedded" (default) runs the listeners in this process, too; "producer" does not; "worker" is as
      "embedded", but leaves at once what is not yet begun when it stops.
    - `allow_unknown`: emit events that no listener here hears; default: they are refused.
    - `drain_timeout`: seconds that an embedded worker gets at the end to try what it has not tried; default 10.

    Raises ConfigurationError for a listener that could not be called, and DuplicateListenerName.
    """

    def __init__(
        self,
        listeners: Sequence[EventListener],
        *,
        bus: Bus,
        role: Role = "embedded",
        allow_unknown: bool = False,
        drain_timeout: float = DRAIN_TIMEOUT,
    ) -> None:
        super().__init__(listeners)
        declare_listeners(bus, listeners)
        self._bus = bus
        self._role = role
        self._allow_unknown = allow_unknown
        self._drain_timeout = drain_timeout
        self._worker = AppWorker(bus, drain_timeout=drain_timeout)
        self._writer: Writer | None = None

    async def __aenter__(self) -> Self:
        _refuse_other_loops()
        self._writer = Writer(self._bus)
        if self._role != "producer":
            await self._worker.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.flush()
            await self._worker.stop(drains=self._role == "embedded" and error is None)
        finally:
            writer, self._writer = self._writer, None
            if writer:
                await writer.close(timeout=self._drain_timeout)
            await self._bus.close()

    async def flush(self) -> None:
        """Wait until what was emitted in the background is published, at most `drain_timeout` seconds."""
        if self._writer:
            await self._writer.flush(timeout=self._drain_timeout)

    def emit(self, event_id: str, *args: Any, pgbus_using: object = None, **kwargs: Any) -> None:
        """Publish an event with these arguments, for its listeners; from any thread, and without waiting.

        It joins the transaction of `pgbus_using`, a session of SQLAlchemy, or of the request's session, or of the
        listener that emits. Else it is published before the response begins, or at once where there is none.

        Raises RuntimeError before the application has started, ImproperlyConfiguredException for an event that nobody
        listens to here, and InvalidEventError for arguments that have no JSON form.
        """
        if self._writer is None:
            raise RuntimeError("Emitter not initialized")
        self._refuse_unknown(event_id)
        emitted = emission(event_id, args, kwargs, limit=self._bus.config.max_payload)
        unit = current_unit()
        if isinstance(unit, RequestUnit) and unit.bus is not self._bus:
            unit = None
        session = unit.find_session() if unit and pgbus_using is None else pgbus_using
        if session is not None:
            self._bus.publish_sync(emitted.payload, topic=emitted.topic, using=AddedTo(session))
        elif not (unit and unit.keep(emitted)):
            self._writer.write(emitted)

    def _refuse_unknown(self, event_id: str) -> None:
        if self._allow_unknown or any(matches(known, event_id) for known in self.listeners):
            return
        raise ImproperlyConfiguredException(f"no event listeners are registered for event ID: {event_id}")


def _refuse_other_loops() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            "pgbus needs asyncio, on which this application does not run; its test client takes backend='asyncio'"
        ) from None
