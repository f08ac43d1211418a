"""Queries of `pgbus doctor`: the state of the server, and of the bus in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeVar

from pgbus.database.store import Store

_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class Holder:
    """Something that may read old rows, and so keeps dead ones from being removed.

    `seconds` is how long it has lasted, None where the server does not say; `xids` is the age, in transactions, of the
    oldest row that it may still read.
    """

    kind: Literal["session", "prepared transaction", "slot", "standby"]
    name: str
    owner: str
    seconds: float | None
    xids: int


@dataclass(frozen=True, slots=True)
class Slot:
    """A replication slot: `active` if someone reads from it; it keeps `kept` bytes of WAL."""

    name: str
    active: bool
    wal_status: str
    kept: int


@dataclass(frozen=True, slots=True)
class NotificationQueue:
    """How full it is, from 0 to 1, and the commits that wait for its lock."""

    usage: float
    waiting: int


@dataclass(frozen=True, slots=True)
class TableHealth:
    """A table's rows as the server estimates them; `xids` is the age of its oldest row in transactions."""

    name: str
    live_rows: int
    dead_rows: int
    changed_rows: int
    xids: int
    options: Sequence[str]


@dataclass(frozen=True, slots=True)
class Space:
    """The size of all tables in bytes, and the periods of the log.

    `ended_at` is the end of the oldest period, None if it is the newest, too; an event of it is owed to `debtor`.
    """

    bytes: int
    began_at: datetime
    log_head: int
    newest: int
    oldest: int
    ended_at: datetime | None
    debtor: str | None


@dataclass(frozen=True, slots=True)
class QuietSubscription:
    """A pattern of a listener that matches nothing that anyone publishes."""

    listener_name: str
    pattern: str


@dataclass(frozen=True, slots=True)
class RecentWork:
    """The attempts of a listener in the last 15 minutes; `longest` is the 99th percentile of them in seconds."""

    listener_name: str
    attempts: int
    failed: int
    longest: float


@dataclass(frozen=True, slots=True)
class RecentDeadLetters:
    """The dead letters of a listener; `recent` are those of the last hour."""

    listener_name: str
    dead: int
    recent: int


@dataclass(frozen=True, slots=True)
class ParkedEvents:
    """Events that workers of a listener left to others, and one of the reasons."""

    listener_name: str
    events: int
    reason: str


@dataclass(frozen=True, slots=True)
class UnansweredCalls:
    """Calls of a procedure in the last 10 minutes that no worker served, or answered in time."""

    procedure: str
    unserved: int
    unanswered: int


@dataclass(frozen=True, slots=True)
class Connections:
    """Connections of the whole server, and our own. `sees_all`: whether we see what sessions of others do."""

    used: int
    workers: int
    read_only: bool
    sees_all: bool
    encrypted: bool
    is_local: bool


@dataclass(frozen=True, slots=True)
class SequenceUse:
    """The part of a sequence's range that is used, from 0 to 1; `behind` ids exist that it has yet to give out.

    Neither is known unless it is `readable` for this user.
    """

    name: str
    used: float
    behind: int
    readable: bool


@dataclass(frozen=True, slots=True)
class CollationDrift:
    """A collation whose rules have changed since indexes were built with it."""

    name: str
    recorded: str
    actual: str


@dataclass(frozen=True, slots=True)
class PublicRight:
    """A right that every user of the database has."""

    name: str
    privilege: str


@dataclass(frozen=True, slots=True)
class MissingGrant:
    """A right that a group role should have, and has not."""

    role: str
    name: str
    privilege: str


@dataclass(frozen=True, slots=True)
class Installation:
    """The server and the database in which a worker has run, and those that we are in; None: not known.

    `listeners` and `schedules` are paused since a worker found this to be a copy.
    """

    known_system: int | None
    known_database: int | None
    system_identifier: int | None
    database: int | None
    listeners: Sequence[str]
    schedules: Sequence[str]

    @property
    def is_copy(self) -> bool:
        """Whether no worker has run here yet, but somewhere else."""
        return self.known_system is not None and (self.known_system, self.known_database) != (
            self.system_identifier,
            self.database,
        )


# ----------------------------------------------------------------------------------------------------------- statements


async def read_clock(store: Store) -> datetime:
    """Return the time of the server's clock."""
    now: datetime = (await store.fetch_one("read_clock"))["now"]
    return now


async def read_server_settings(store: Store, names: Sequence[str]) -> Mapping[str, str]:
    """Settings by name as a session of this user has them; one that this server does not know is missing."""
    return {row["name"]: row["value"] for row in await store.fetch("read_server_settings", names=list(names))}


async def read_horizon(store: Store) -> tuple[Holder, ...]:
    """Return whatever may keep dead rows from being removed, oldest first."""
    return await _rows(store, "read_horizon", Holder)


async def read_slots(store: Store) -> tuple[Slot, ...]:
    """Return the state of every replication slot."""
    return await _rows(store, "read_slots", Slot)


async def read_notification_queue(store: Store) -> NotificationQueue:
    """The state of the server's queue of notifications."""
    return (await _rows(store, "read_notification_queue", NotificationQueue))[0]


async def read_tables(store: Store) -> tuple[TableHealth, ...]:
    """Return the health of the bus's tables."""
    return await _rows(store, "read_tables", TableHealth)


async def read_space(store: Store) -> Space:
    """Return the size of the bus on the disk, and the periods of its log."""
    return (await _rows(store, "read_space", Space))[0]


async def find_unheard_topics(store: Store) -> tuple[str, ...]:
    """Topics of the last 10,000 events that no listener hears."""
    return tuple(row["topic"] for row in await store.fetch("find_unheard_topics"))


async def find_quiet_subscriptions(store: Store) -> tuple[QuietSubscription, ...]:
    """Subscriptions, at least an hour old, to what nobody publishes."""
    return await _rows(store, "find_quiet_subscriptions", QuietSubscription)


async def read_recent_work(store: Store) -> tuple[RecentWork, ...]:
    """The attempts of the last 15 minutes by listener."""
    return await _rows(store, "read_recent_work", RecentWork)


async def count_recent_dead_letters(store: Store) -> tuple[RecentDeadLetters, ...]:
    """The dead letters by listener, of those that have any."""
    return await _rows(store, "count_recent_dead_letters", RecentDeadLetters)


async def count_parked_events(store: Store) -> tuple[ParkedEvents, ...]:
    """The events that were left to other workers, by listener, most first."""
    return await _rows(store, "count_parked_events", ParkedEvents)


async def find_unanswered_calls(store: Store) -> tuple[UnansweredCalls, ...]:
    """The procedures with calls of the last 10 minutes that were not answered."""
    return await _rows(store, "find_unanswered_calls", UnansweredCalls)


async def read_connections(store: Store) -> Connections:
    """Return the connections of the server, and the kind of our own."""
    return (await _rows(store, "read_connections", Connections))[0]


async def read_sequences(store: Store) -> tuple[SequenceUse, ...]:
    """Return the use of the bus's sequences."""
    return await _rows(store, "read_sequences", SequenceUse, namespace=store.namespace)


async def find_invalid_indexes(store: Store) -> tuple[str, ...]:
    """Names of indexes of the bus that the server does not use."""
    return tuple(row["name"] for row in await store.fetch("find_invalid_indexes"))


async def find_collation_drift(store: Store) -> tuple[CollationDrift, ...]:
    """The database's collation, if its rules have changed; PostgreSQL 15 or newer."""
    return await _rows(store, "find_collation_drift", CollationDrift)


async def find_public_rights(store: Store) -> tuple[PublicRight, ...]:
    """Rights that every user of the database has on the bus."""
    return await _rows(store, "find_public_rights", PublicRight)


async def find_missing_grants(store: Store) -> tuple[MissingGrant, ...]:
    """Rights that group roles of the bus lack."""
    return await _rows(store, "find_missing_grants", MissingGrant, namespace=store.namespace)


async def read_installation(store: Store) -> Installation:
    """Return where the bus is, and where it was."""
    return Installation(**await store.fetch_one("read_installation"))


async def _rows(store: Store, statement: str, made: type[_Row], **values: object) -> tuple[_Row, ...]:
    return tuple(made(**row) for row in await store.fetch(statement, **values))
