"""Typed records of what happens in a process, for observers: logging, metrics, and tests that wait for a signal."""

from __future__ import annotations

from typing import TypeAlias
from uuid import UUID

import msgspec


class SessionOpened(msgspec.Struct, frozen=True):
    """The worker's session is up: it listens for notifications and holds its liveness lock."""

    worker_id: int


class SessionLost(msgspec.Struct, frozen=True):
    """The worker's session broke; it reconnects."""

    error: str


class PartFailed(msgspec.Struct, frozen=True):
    """A part of this worker ended by a fault of code, and begins again after a pause.

    `part` is `listener NAME`, `calls`, `schedules` or `leader`.
    """

    part: str
    error: str


class WorkersCounted(msgspec.Struct, frozen=True):
    """The worker has said that it lives, and has counted the others that do."""

    others: int


class ListenerDraining(msgspec.Struct, frozen=True):
    """A listener of this worker claims and begins no more, as the worker stops; handlers that run may finish."""

    listener_name: str


class LeaderChanged(msgspec.Struct, frozen=True):
    """A worker became the leader, or is it no longer."""

    leads: bool


class LeaderSlept(msgspec.Struct, frozen=True):
    """The outbox is empty, and publishers will notify."""


class PeriodEnded(msgspec.Struct, frozen=True):
    """The first event of this partition of the log is a period old; the next event opens the next partition."""

    partition: int


class Sequenced(msgspec.Struct, frozen=True):
    """The leader moved `events` events from the outbox to the log."""

    events: int


class Claimed(msgspec.Struct, frozen=True):
    """A number of events was claimed for a listener."""

    listener_name: str
    events: int


class Settled(msgspec.Struct, frozen=True):
    """Outcomes were written for a number of events of a listener."""

    listener_name: str
    done: int
    retried: int
    dead: int


class ClaimsLost(msgspec.Struct, frozen=True):
    """A number of claims of this worker was freed before it settled them; their events are delivered again."""

    listener_name: str
    claims: int


class ClaimsFreed(msgspec.Struct, frozen=True):
    """The leader freed a number of claims of dead workers."""

    claims: int


class CallStarted(msgspec.Struct, frozen=True):
    """A call was taken by this worker, which runs the procedure."""

    procedure: str
    call_id: UUID


class CallEnded(msgspec.Struct, frozen=True):
    """A call that this worker ran has its response: `outcome` as in `rpc_calls`, `duration` in seconds."""

    procedure: str
    call_id: UUID
    outcome: str
    duration: float


class TaskStarted(msgspec.Struct, frozen=True):
    """A run of a schedule was claimed by this worker, which calls the function."""

    schedule_name: str
    run_id: UUID


class TaskEnded(msgspec.Struct, frozen=True):
    """A run that this worker claimed has ended: `outcome` as in `schedule_history`, `duration` in seconds."""

    schedule_name: str
    run_id: UUID
    outcome: str
    duration: float


Happening: TypeAlias = (
    SessionOpened
    | SessionLost
    | PartFailed
    | WorkersCounted
    | ListenerDraining
    | LeaderChanged
    | LeaderSlept
    | PeriodEnded
    | Sequenced
    | Claimed
    | Settled
    | ClaimsLost
    | ClaimsFreed
    | CallStarted
    | CallEnded
    | TaskStarted
    | TaskEnded
)
