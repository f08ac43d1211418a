"""Typed records of what happens in a process, for observers: logging, metrics, and tests that wait for a signal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """The worker's session is up: it listens for notifications and holds its liveness lock."""

    worker_id: int


@dataclass(frozen=True, slots=True)
class SessionLost:
    """The worker's session broke; it reconnects."""

    error: str


@dataclass(frozen=True, slots=True)
class PartFailed:
    """A part of this worker ended by a fault of code, and begins again after a pause.

    `part` is `listener NAME`, `calls`, `schedules` or `leader`.
    """

    part: str
    error: str


@dataclass(frozen=True, slots=True)
class WorkersCounted:
    """The worker has said that it lives, and has counted the others that do."""

    others: int


@dataclass(frozen=True, slots=True)
class ListenerDraining:
    """A listener of this worker claims no more, as the worker stops; handlers that run may finish."""

    listener_name: str


@dataclass(frozen=True, slots=True)
class LeaderChanged:
    """A worker became the leader, or is it no longer."""

    leads: bool


@dataclass(frozen=True, slots=True)
class LeaderSlept:
    """The outbox is empty, and publishers will notify."""


@dataclass(frozen=True, slots=True)
class PeriodEnded:
    """The first event of this partition of the log is a period old; the next event opens the next partition."""

    partition: int


@dataclass(frozen=True, slots=True)
class Sequenced:
    """The leader moved `events` events from the outbox to the log."""

    events: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """A number of events was claimed for a listener."""

    listener_name: str
    events: int


@dataclass(frozen=True, slots=True)
class Settled:
    """Outcomes were written for a number of events of a listener."""

    listener_name: str
    done: int
    retried: int
    dead: int


@dataclass(frozen=True, slots=True)
class ClaimsLost:
    """A number of claims of this worker was freed before it settled them; their events are delivered again."""

    listener_name: str
    claims: int


@dataclass(frozen=True, slots=True)
class ClaimsFreed:
    """The leader freed a number of claims of dead workers."""

    claims: int


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A call was taken by this worker, which runs the procedure."""

    procedure: str
    call_id: UUID


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call that this worker ran has its response: `outcome` as in `rpc_calls`, `duration` in seconds."""

    procedure: str
    call_id: UUID
    outcome: str
    duration: float


@dataclass(frozen=True, slots=True)
class TaskStarted:
    """A run of a schedule was claimed by this worker, which calls the function."""

    schedule_name: str
    run_id: UUID


@dataclass(frozen=True, slots=True)
class TaskEnded:
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
