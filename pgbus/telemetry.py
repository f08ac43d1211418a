"""Typed records of what happens in a process, for observers: logging, metrics, and tests that wait for a signal.

An observer is called on the worker's event loop, right after the fact, and must be quick. Its errors are logged.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID

from pgbus.aio.returned import refuse_awaitable
from pgbus.errors import ConfigurationError

logger = logging.getLogger("pgbus")


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
Observer: TypeAlias = Callable[[Happening], None]


class Telemetry:
    """The observers of one bus."""

    def __init__(self) -> None:
        self._observers: list[Observer] = []

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Call `observer`, a plain function, with everything that happens from now on; returns a function that ends it.

        Raises ConfigurationError for an async one, which nobody would await.
        """
        if inspect.iscoroutinefunction(observer) or inspect.isgeneratorfunction(observer):
            raise ConfigurationError(f"an observer is a plain function, called on the event loop, and not {observer!r}")
        self._observers.append(observer)
        return lambda: self._observers.remove(observer)

    def emit(self, happening: Happening) -> None:
        """Pass the record to every observer."""
        for observer in tuple(self._observers):
            try:
                refuse_awaitable(observer(happening), f"the observer {observer!r}", "and nobody awaits it")
            except Exception:
                logger.exception("an observer failed on %r", happening)
