"""Reads a task's result from the log and the history, through the bus's unmanaged models."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from pgbus.contrib.django.models import Attempt, DeadLetter, Event, Pending, Published
from pgbus.topics import split_name

_GIVEN_UP = ("dead", "discarded", "skipped")


@dataclass(kw_only=True)
class Run:
    """A task and its attempts so far; `errors` are those of the framework's TaskError, by name."""

    id: str
    args: list[Any]
    kwargs: dict[str, Any]
    status: str = "READY"
    payload: dict[str, Any] = field(default_factory=dict)
    queue_name: str = "default"
    deliver_at: datetime | None = None
    enqueued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    last_attempted_at: datetime | None = None
    workers: list[str] = field(default_factory=list)
    errors: list[dict[str, str]] = field(default_factory=list)
    return_value: Any = None

    def begin(self, *, worker: str, attempt: int, now: datetime) -> None:
        """An attempt begins, at a worker."""
        self.status, self.last_attempted_at = "RUNNING", now
        self.started_at = self.started_at or now
        self.workers = [*self.workers[: attempt - 1], worker]

    def succeed(self, value: Any, *, now: datetime) -> None:
        """It has returned a value."""
        self.status, self.return_value, self.finished_at = "SUCCESSFUL", value, now

    def fail(self, *, now: datetime) -> None:
        """It will not be tried again."""
        self.status, self.finished_at = "FAILED", now


def find_run(task_id: str, *, topics: Collection[str], results: str) -> Run | None:
    """The task of this id among the events of these topics; what it returned and raised is in the topic `results`."""
    try:
        event_id = UUID(task_id)
    except ValueError:
        return None
    if event := Event.objects.filter(event_id=event_id, topic__in=topics).first():
        run = run_of(event)
        _add_attempts(run, event, results)
        return run
    # With the condition that the index of scheduled events has, and only then the rest, which is little.
    for waiting in (Published.objects.filter(deliver_at__isnull=False), Published.objects.filter(deliver_at=None)):
        if event := waiting.filter(event_id=event_id, topic__in=topics).first():
            return run_of(event)
    return None


def run_of(event: Any) -> Run:
    """The task that an event is, without what became of it; the event may be a row, or the message of a handler."""
    return Run(
        id=str(event.event_id),
        args=event.payload["args"],
        kwargs=event.payload["kwargs"],
        payload=event.payload,
        queue_name=split_name(event.topic)[1],
        deliver_at=event.deliver_at,
        enqueued_at=datetime.fromisoformat(event.payload["enqueued_at"]),
    )


def _add_attempts(run: Run, event: Any, results: str) -> None:
    attempts = list(Attempt.objects.filter(position=event.position, listener_name=event.topic))
    told = [result.payload for result in Event.objects.filter(key=run.id, topic=results).order_by("position")]
    run.errors = [payload["error"] for payload in told if "error" in payload]
    returned = [payload["return_value"] for payload in told if "return_value" in payload]
    run.workers = [attempt.worker for attempt in attempts if attempt.outcome != "discarded"]
    if attempts:
        run.started_at, run.last_attempted_at = attempts[0].started_at, attempts[-1].started_at
    last = attempts[-1] if attempts else None
    if last is None or last.outcome == "retry":
        _add_current(run, event)
    elif last.outcome == "done":
        # The result enters the log a moment after the attempt has ended: until then, it runs.
        run.status = "RUNNING"
        if returned:
            run.succeed(returned[-1], now=_end(last))
    elif last.outcome in _GIVEN_UP:
        if last.outcome == "dead" and not DeadLetter.objects.filter(position=event.position).exists():
            _add_current(run, event)  # someone has put it back
        else:
            run.fail(now=_end(last))


def _add_current(run: Run, event: Any) -> None:
    """The attempt that is under way, if one is."""
    owed = Pending.objects.filter(
        listener_name=event.topic,
        first_position__lte=event.position,
        last_position__gte=event.position,
        state="in flight",
    )
    if current := owed.first():
        run.status = "RUNNING"
        run.workers.append(current.worker)


def _end(attempt: Any) -> datetime:
    end: datetime = attempt.started_at + timedelta(seconds=attempt.duration)
    return end
