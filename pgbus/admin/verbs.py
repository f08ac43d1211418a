"""The verbs themselves, each of them one transaction on one connection."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from pgbus.admin.records import (
    Attempt,
    BusStatus,
    CallFilter,
    CallRecord,
    DeadFilter,
    DeadLetter,
    EventFilter,
    EventRecord,
    GivenUp,
    ListenerStatus,
    Owed,
    WorkerStatus,
)
from pgbus.admin.schedules import ScheduleVerbs
from pgbus.config import Config
from pgbus.database import channels, sql
from pgbus.database.connections import Record
from pgbus.database.faults import InsufficientPrivilege
from pgbus.database.migrate import check_async
from pgbus.database.migrate.sessions import Connection, session
from pgbus.database.sql.rights import missing_right
from pgbus.database.statements import schemas
from pgbus.database.store import Store
from pgbus.errors import ListenerRunningError, UnknownListenerError
from pgbus.messages import EventMessage
from pgbus.schema import Schema, Stored, read_schema, read_versions

EVERY_EVENT = EventFilter()
EVERY_DEAD_LETTER = DeadFilter()
EVERY_CALL = CallFilter()

_FOLLOW_CHUNK = 100


class Admin:
    """Operators' verbs over one asyncpg connection, which is in no transaction and used by nobody else meanwhile."""

    def __init__(self, connection: Connection, *, namespace: str = sql.DEFAULT_NAMESPACE) -> None:
        self._connection = connection
        self._namespace = namespace
        self._statements = sql.load(namespace)
        self._store = Store(connection, namespace=namespace)
        self.schedules = ScheduleVerbs(fetch=self._fetch, change=self._change)

    @classmethod
    @asynccontextmanager
    async def connect(cls, config: Config) -> AsyncIterator[Admin]:
        """Connect to the configured database, and check that its schema fits this code.

        Raises DatabaseUnreachableError or SchemaVersionError, and PrivilegeError for what this user may not do.
        """
        # Without a cache every statement is planned for its own values, so that filters which are NULL cost nothing.
        async with session(config.session_dsn, statement_cache_size=0) as connection:
            await connection.set_type_codec(
                "timestamptz", schema="pg_catalog", format="tuple", encoder=_to_microseconds, decoder=_to_instant
            )
            await check_async(connection, namespace=config.namespace)
            yield cls(connection, namespace=config.namespace)

    async def status(self) -> BusStatus:
        """Outbox, log, listeners, workers and schedules, all at the same moment."""
        async with self._connection.transaction(isolation="repeatable_read", readonly=True):
            [bus] = await self._fetch("describe_bus")
            return BusStatus(
                **bus,
                listeners=await self.listeners(),
                workers=await self.workers(),
                schedules=await self.schedules.list(),
            )

    async def listeners(self) -> tuple[ListenerStatus, ...]:
        """Every listener, by name."""
        rows = await self._fetch("list_listeners")
        return tuple(ListenerStatus(**{**row, "patterns": tuple(row["patterns"])}) for row in rows)

    async def workers(self) -> tuple[WorkerStatus, ...]:
        """Every worker that is listed, the eldest first."""
        rows = await self._fetch("list_workers", namespace=self._namespace)
        return tuple(
            WorkerStatus(
                **{**row, "listeners": tuple(row["listeners"]), "failures": msgspec.json.decode(row["failures"])}
            )
            for row in rows
        )

    async def schemas(self) -> list[Stored]:
        """Every version of every schema, by kind and name."""
        return read_versions(await schemas.list_schemas(self._store))

    async def find_events(
        self, wanted: EventFilter = EVERY_EVENT, *, limit: int = 100, newest_first: bool = True
    ) -> list[EventRecord]:
        """At most `limit` events of the log with what each listener did with them.

        Raises UnknownListenerError if `owed_to` names none.
        """
        await self._check_listener(wanted.owed_to)
        rows = await self._fetch("find_events", **wanted.values(), limit=limit, newest_first=newest_first)
        return [_event_record(row) for row in rows]

    async def follow(
        self, wanted: EventFilter = EVERY_EVENT, *, poll_interval: float = 1.0
    ) -> AsyncGenerator[EventRecord, None]:
        """Yield events as they enter the log, for ever; those after `wanted.after` first, if that is given.

        A notification tells of most at once; every `poll_interval` seconds it looks anyway.
        """
        position = await self._log_head() if wanted.after is None else wanted.after
        async with self._work_signal() as signal:
            while True:
                signal.clear()
                head = await self._log_head()
                window = replace(wanted, after=position, before=min(head + 1, wanted.before or head + 1))
                found = await self.find_events(window, limit=_FOLLOW_CHUNK, newest_first=False)
                for record in found:
                    yield record
                if len(found) == _FOLLOW_CHUNK:
                    position = found[-1].event.position or position
                    continue
                position = max(position, head)
                with suppress(TimeoutError):
                    await asyncio.wait_for(signal.wait(), poll_interval)

    async def find_calls(self, wanted: CallFilter = EVERY_CALL, *, limit: int = 100) -> list[CallRecord]:
        """At most `limit` calls that are not pruned yet, the newest first."""
        return [CallRecord(**row) for row in await self._fetch("find_calls", **wanted.values(), limit=limit)]

    async def event_schemas(self) -> dict[str, Schema]:
        """The JSON Schema of each event's payload that holds now, by topic."""
        found = await schemas.load_schemas(self._store)
        events = ((one.name, read_schema(one.schema)) for one in found if one.kind == "event")
        return {name: schema["parameters"] for name, schema in events if schema is not None}

    async def dead_letters(self, wanted: DeadFilter = EVERY_DEAD_LETTER, *, limit: int = 100) -> list[DeadLetter]:
        """At most `limit` dead letters, newest first. Raises UnknownListenerError if the filter names none."""
        ids = await self._match_dead_letters(wanted, limit=limit)
        return [_dead_letter(row) for row in await self._fetch("read_dead_letters", ids=ids)]

    async def retry_dead(self, wanted: DeadFilter = EVERY_DEAD_LETTER) -> list[int]:
        """Owe the events of these dead letters to their listeners again, due at once; the ids of those it did."""
        return await self._settle_dead_letters("retry_dead_letters", wanted)

    async def discard_dead(self, wanted: DeadFilter = EVERY_DEAD_LETTER) -> list[int]:
        """Remove dead letters for good; the history says so. The ids of those it did."""
        return await self._settle_dead_letters("discard_dead_letters", wanted)

    async def pause(self, listener_name: str) -> None:
        """Stop deliveries to a listener on every worker; events are kept for it. Raises UnknownListenerError."""
        await self._set_state(listener_name, "paused")

    async def resume(self, listener_name: str) -> None:
        """Let a paused listener go on. Raises UnknownListenerError."""
        await self._set_state(listener_name, "active")

    async def reset(self, listener_name: str, *, to: Literal["beginning", "now"] | int | datetime) -> int:
        """Have a listener hear the log again, or skip what waits for it; returns the position it starts from.

        `to` is the log's beginning, now, a position, or an instant (aware): the first event that entered the log then
        or later. What waits for the listener is dropped; what is in flight stays so; dead letters stay.
        Raises UnknownListenerError, and ValueError for a position that is not in the log.
        """
        async with self._change():
            listener_id = await self._lock_listener(listener_name)
            cursor = await self._position_of(to)
            await self._fetch("set_listener_cursor", listener_id=listener_id, cursor=cursor)
            await self._fetch("delete_waiting_deliveries", listener_id=listener_id)
            return cursor

    async def remove(self, listener_name: str, *, force: bool = False) -> None:
        """Forget a listener, with all that is owed to it and its dead letters; its history stays.

        Raises UnknownListenerError, and ListenerRunningError while a live worker runs it, unless `force`.
        """
        async with self._change():
            listener_id = await self._lock_listener(listener_name)
            running = [
                worker.name for worker in await self.workers() if worker.live and listener_name in worker.listeners
            ]
            if running and not force:
                raise ListenerRunningError(listener_name, running)
            await self._fetch("delete_deliveries", listener_id=listener_id)
            await self._fetch("delete_listener", listener_id=listener_id)

    async def _fetch(self, name: str, **values: object) -> Sequence[Record]:
        statement = self._statements[name]
        try:
            return await self._connection.fetch(statement.asyncpg, *statement.arguments(values))
        except InsufficientPrivilege as error:
            raise missing_right(statement, error) from error

    @asynccontextmanager
    async def _change(self) -> AsyncIterator[None]:
        """A transaction after which the workers read the listeners again."""
        async with self._connection.transaction():
            yield
            await self._fetch("notify_workers", channel=channels.work(self._namespace))

    async def _set_state(self, listener_name: str, state: str) -> None:
        async with self._change():
            listener_id = await self._lock_listener(listener_name)
            await self._fetch("set_listener_state", listener_id=listener_id, state=state)

    async def _lock_listener(self, listener_name: str) -> int:
        rows = await self._fetch("lock_listener", listener_name=listener_name)
        if not rows:
            await self._check_listener(listener_name)
        listener_id: int = rows[0]["id"]
        return listener_id

    async def _check_listener(self, listener_name: str | None) -> None:
        if listener_name is None:
            return
        names = [row["listener_name"] for row in await self._fetch("list_listener_names")]
        if listener_name not in names:
            raise UnknownListenerError(listener_name, difflib.get_close_matches(listener_name, names))

    async def _position_of(self, place: Literal["beginning", "now"] | int | datetime) -> int:
        # "now" is the next position and not "live": an event that the leader is sequencing at this moment, with the old
        # cursor before its eyes, is then either delivered or backfilled.
        following = await self._log_head() + 1
        match place:
            case "beginning":
                return 0
            case "now":
                return following
            case datetime():
                if place.tzinfo is None:
                    raise ValueError(f"{place} has no time zone: give an aware datetime")
                [row] = await self._fetch("find_position_at", instant=place)
                return int(row["position"])
            case int() if 0 <= place <= following:
                return place
            case _:
                raise ValueError(f"{place!r} is not a position of the log, which ends at {following - 1}")

    async def _log_head(self) -> int:
        [row] = await self._fetch("read_log_head")
        return int(row["log_head"])

    async def _match_dead_letters(self, wanted: DeadFilter, *, limit: int | None) -> list[int]:
        await self._check_listener(wanted.listener_name)
        return [row["id"] for row in await self._fetch("match_dead_letters", **wanted.values(), limit=limit)]

    async def _settle_dead_letters(self, statement: str, wanted: DeadFilter) -> list[int]:
        async with self._change():
            ids = await self._match_dead_letters(wanted, limit=None)
            await self._fetch("lock_dead_letters", ids=ids)
            return [row["id"] for row in await self._fetch(statement, ids=ids)]

    @asynccontextmanager
    async def _work_signal(self) -> AsyncIterator[asyncio.Event]:
        """An event that is set by each notification to the workers."""
        signal, channel = asyncio.Event(), channels.work(self._namespace)

        def notified(*_: object) -> None:
            signal.set()

        await self._connection.add_listener(channel, notified)
        try:
            yield signal
        finally:
            await self._connection.remove_listener(channel, notified)


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


def _event_record(row: Record) -> EventRecord:
    return EventRecord(
        event=_event(row, ancestors=row["ancestors"], deliver_at=row["deliver_at"]),
        logged_at=row["logged_at"],
        attempts=msgspec.json.decode(row["attempts"], type=tuple[Attempt, ...]),
        owed=msgspec.json.decode(row["owed"], type=tuple[Owed, ...]),
        given_up=msgspec.json.decode(row["given_up"], type=tuple[GivenUp, ...]),
    )


def _dead_letter(row: Record) -> DeadLetter:
    own = (field.name for field in fields(DeadLetter) if field.name != "event")
    return DeadLetter(event=_event(row), **{name: row[name] for name in own})


def _event(row: Record, *, ancestors: list[str] | None = None, deliver_at: datetime | None = None) -> EventMessage:
    return EventMessage(
        topic=row["topic"],
        raw=row["payload"],
        event_id=row["event_id"],
        key=row["key"],
        raw_headers=row["headers"],
        ancestors=ancestors,
        published_at=row["published_at"],
        deliver_at=deliver_at,
        position=row["position"],
    )
