"""`Admin`: the bus as operators see it. Each verb is one transaction on one connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Unpack
from uuid import UUID

import msgspec

from pgbus.admin.dead_letters import DeadLetterVerbs
from pgbus.admin.filters import EVERY_CALL, EVERY_EVENT, CallFilter, EventFilter
from pgbus.admin.listeners import ListenerVerbs, check_listener
from pgbus.admin.operations import OperationVerbs
from pgbus.admin.schedules import ScheduleVerbs
from pgbus.config import Config
from pgbus.database import sql
from pgbus.database.migrate import check_async
from pgbus.database.migrate.sessions import Connection, session
from pgbus.database.statements import activity, inspection, schemas
from pgbus.database.statements.activity import Failure, ListenerMeasure, RunningCall
from pgbus.database.statements.inspection import (
    CallRecord,
    EventRecord,
    ListenerStatus,
    LogStatus,
    WorkerStatus,
)
from pgbus.database.statements.operations import Operation, Why
from pgbus.database.statements.timetable import ScheduleStatus
from pgbus.database.store import Store
from pgbus.errors import InvalidEventError

if TYPE_CHECKING:
    from pgbus.schema import Schema, Stored

_FOLLOW_CHUNK = 100


class BusStatus(LogStatus, frozen=True):
    """The bus at one moment. `leader_session` is the process id of the backend that holds the leader's lock."""

    listeners: tuple[ListenerStatus, ...]
    workers: tuple[WorkerStatus, ...]
    schedules: tuple[ScheduleStatus, ...]
    leader_session: int | None = None

    @property
    def leader(self) -> WorkerStatus | None:
        """The leader; without one it is None, and no event enters the log before somebody leads."""
        return next((worker for worker in self.workers if worker.leading), None)

    @property
    def is_asleep(self) -> bool:
        """Whether nobody leads because nothing is owed: the next event wakes the bus."""
        return any(worker.asleep for worker in self.workers)


class Activity(msgspec.Struct, frozen=True):
    """The work of the bus at one moment: its state, the attempts of the last `window` seconds, and what runs now.

    `measures` has the listeners with such attempts, by their names.
    """

    window: float
    status: BusStatus
    measures: dict[str, ListenerMeasure]
    running: tuple[RunningCall, ...]

    def rate(self, listener_name: str) -> float:
        """Events that were handled in a second, on average."""
        measure = self.measures.get(listener_name)
        return measure.done / self.window if measure else 0.0

    def failure_rate(self, listener_name: str) -> float:
        """Attempts that failed in a second, on average."""
        measure = self.measures.get(listener_name)
        return measure.failed / self.window if measure else 0.0

    def p95(self, listener_name: str) -> float | None:
        """Seconds within which 95 % of the attempts ended; None without attempts."""
        measure = self.measures.get(listener_name)
        return measure.p95 if measure else None


class Admin:
    """Operators' commands over one asyncpg connection, which has no open transaction and is not used otherwise
    meanwhile.

    Those for listeners, dead letters and schedules are in `listeners`, `dead_letters` and `schedules`; each change that
    they make is one of `operations`.
    """

    def __init__(self, connection: Connection, *, namespace: str = sql.DEFAULT_NAMESPACE) -> None:
        self._connection = connection
        self.store = Store(connection, namespace=namespace)
        self.operations = OperationVerbs(store=self.store, change=connection.transaction)
        self.listeners = ListenerVerbs(store=self.store, operations=self.operations)
        self.dead_letters = DeadLetterVerbs(store=self.store, operations=self.operations)
        self.schedules = ScheduleVerbs(store=self.store, operations=self.operations)

    @classmethod
    @asynccontextmanager
    async def connect(cls, config: Config) -> AsyncIterator[Admin]:
        """Connect to the configured database, and check that its schema fits this code.

        Raises DatabaseUnreachableError or SchemaVersionError, and PrivilegeError if this user lacks a right.
        """
        # Without a cache every statement is planned for its own values, so that filters which are NULL cost nothing.
        async with session(config.session_dsn, statement_cache_size=0) as connection:
            await connection.set_type_codec(
                "timestamptz", schema="pg_catalog", format="tuple", encoder=_to_microseconds, decoder=_to_instant
            )
            await check_async(connection, namespace=config.namespace)
            yield cls(connection, namespace=config.namespace)

    async def status(self) -> BusStatus:
        """Return the state of outbox, log, listeners, workers and schedules, in one snapshot."""
        async with self._snapshot():
            return await self._status()

    async def activity(self, *, window: float = 60.0) -> Activity:
        """Return the state of the bus, and the work of the last `window` seconds, in one snapshot."""
        async with self._snapshot():
            measures = await activity.measure_listeners(self.store, window=window)
            return Activity(
                window=window,
                status=await self._status(),
                measures={one.listener_name: one for one in measures},
                running=tuple(await activity.list_running(self.store)),
            )

    async def failures(self, listener_name: str, *, window: float = 600.0, limit: int = 10) -> list[Failure]:
        """At most `limit` failed attempts of a listener that began within `window` seconds, the newest first."""
        return await activity.list_failures(self.store, listener_name=listener_name, window=window, limit=limit)

    def _snapshot(self) -> AbstractAsyncContextManager[object]:
        # One snapshot for all statements of a picture: else an event could be in it twice, or be missing, as it moves
        # on.
        return self._connection.transaction(isolation="repeatable_read", readonly=True)

    async def _status(self) -> BusStatus:
        log = await inspection.describe_bus(self.store)
        return BusStatus(
            **msgspec.structs.asdict(log),
            leader_session=await inspection.find_leader_session(self.store),
            listeners=await self.listeners.list(),
            workers=await self.workers(),
            schedules=await self.schedules.list(),
        )

    async def workers(self) -> tuple[WorkerStatus, ...]:
        """Every worker that is listed, oldest first."""
        return await inspection.list_workers(self.store)

    async def schemas(self) -> list[Stored]:
        """Every version of every schema, by kind and name."""
        from pgbus.schema import read_versions  # a quarter of what a command costs to start, and few need it

        return read_versions(await schemas.list_schemas(self.store))

    async def event_schemas(self) -> dict[str, Schema]:
        """The JSON Schema of each event's payload that holds now, by topic."""
        from pgbus.schema import read_schema

        found = await schemas.load_schemas(self.store)
        events = ((one.name, read_schema(one.schema)) for one in found if one.kind == "event")
        return {name: schema["parameters"] for name, schema in events if schema is not None}

    async def republish(self, event_id: UUID, payload: object, **why: Unpack[Why]) -> Operation:
        """Publish an event again with another payload: a new event, with the old one's id as its `causation_id`.

        The new event's id is in the operation's result. Raises ValidationError if the payload does not fit the event's
        stored schema, and InvalidEventError if there is no such event in the log.
        """
        await self.check_republishable(event_id, payload)
        return await self.operations.run("republish", {"event": str(event_id), "payload": payload}, **why)

    async def check_republishable(self, event_id: UUID, payload: object) -> None:
        """Raise ValidationError if the payload does not fit the event's stored schema; InvalidEventError."""
        from pgbus.schema.validate import check_payload

        found = await self.find_events(EventFilter(event_id=event_id), limit=1)
        if not found:
            raise InvalidEventError("event", f"there is no event {event_id} in the log")
        topic = found[0].event.topic
        check_payload((await self.event_schemas()).get(topic), payload, subject=f"the payload of {topic}")

    async def find_events(
        self, wanted: EventFilter = EVERY_EVENT, *, limit: int = 100, newest_first: bool = True
    ) -> list[EventRecord]:
        """Return at most `limit` events of the log, with every attempt at them.

        Raises NotRegisteredError if `owed_to` names none.
        """
        await check_listener(self.store, wanted.owed_to)
        return await inspection.find_events(self.store, wanted.criteria(), limit=limit, newest_first=newest_first)

    async def find_calls(self, wanted: CallFilter = EVERY_CALL, *, limit: int = 100) -> list[CallRecord]:
        """Return at most `limit` calls that are not pruned yet, the newest first."""
        return await inspection.find_calls(self.store, wanted.criteria(), limit=limit)

    async def follow(
        self, wanted: EventFilter = EVERY_EVENT, *, poll_interval: float = 1.0
    ) -> AsyncGenerator[EventRecord, None]:
        """Yield events as they enter the log, forever; first those after `wanted.after`, if that is given.

        A notification announces most events at once; in addition it polls every `poll_interval` seconds.
        """
        position = await inspection.read_log_head(self.store) if wanted.after is None else wanted.after
        async with self._work_signal() as signal:
            while True:
                # Cleared before the look, so that what is notified during it is looked for next.
                signal.clear()
                head = await inspection.read_log_head(self.store)
                window = replace(wanted, after=position, before=min(head + 1, wanted.before or head + 1))
                found = await self.find_events(window, limit=_FOLLOW_CHUNK, newest_first=False)
                for record in found:
                    yield record
                if len(found) == _FOLLOW_CHUNK:
                    position = found[-1].event.position or position
                    continue
                # All of the log up to the head was read, and nothing comes in below it: one leader writes the log, in
                # its order, one transaction after the other.
                position = max(position, head)
                with suppress(TimeoutError):
                    await asyncio.wait_for(signal.wait(), poll_interval)

    @asynccontextmanager
    async def _work_signal(self) -> AsyncIterator[asyncio.Event]:
        """An event that is set by each notification to the workers."""
        signal = asyncio.Event()

        def notified(*_: object) -> None:
            signal.set()

        await self._connection.add_listener(self.store.work_channel, notified)
        try:
            yield signal
        finally:
            await self._connection.remove_listener(self.store.work_channel, notified)


_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def _to_instant(wire: tuple[int]) -> datetime:
    """An instant, or the nearest that a datetime can hold: what was stored by others must not keep us from looking."""
    try:
        return _POSTGRES_EPOCH + timedelta(microseconds=wire[0])
    except OverflowError:
        return _FIRST if wire[0] < 0 else _LAST


def _to_microseconds(instant: datetime) -> tuple[int]:
    return ((instant - _POSTGRES_EPOCH) // _MICROSECOND,)
