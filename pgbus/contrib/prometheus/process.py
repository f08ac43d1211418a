"""The metrics of one process: what its publishers, handlers, procedures and tasks did since it started."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pgbus.bus import Bus
from pgbus.telemetry import (
    Abandoned,
    Call,
    CallEnded,
    Claimed,
    ClaimsFreed,
    ClaimsLost,
    Happening,
    LeaderChanged,
    Operation,
    PartFailed,
    Process,
    Publish,
    Sequenced,
    SessionLost,
    Settled,
    TaskEnded,
)

# Seconds: those of OpenTelemetry's conventions, so that both show the same.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
# An event may wait for hours before it is handled.
LATENCY_BUCKETS = (0.001, *BUCKETS, 30.0, 60.0, 300.0, 1800.0, 7200.0)


class ProcessMetrics:
    """Counts and times what a bus does in this process, from now on: an instrument of the bus, and an observer.

    `registry`: where its metrics are; default: a registry of its own. A second bus in one registry is refused by
    prometheus_client: give each bus its own.
    """

    def __init__(self, bus: Bus, *, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._make_publishing_and_handling()
        self._make_calls_and_tasks()
        self._make_leading()
        bus.telemetry.observe(self.observe)
        bus.telemetry.instrument(self)

    def _make_publishing_and_handling(self) -> None:
        self._published = self._counter("pgbus_published_events", "Events published by this process", "topic")
        self._publishing = self._histogram(
            "pgbus_publish_duration_seconds",
            "Time of publishing: one event, or all of a publish_many, until they are inserted",
            "outcome",
        )
        self._claimed = self._counter("pgbus_claimed_events", "Events claimed for a listener", "listener_name")
        self._handled = self._counter(
            "pgbus_handled_events", "Events settled, by what became of them", "listener_name", "outcome"
        )
        self._handling = self._histogram(
            "pgbus_handler_duration_seconds", "Time of one call of a handler, also of one that fails", "listener_name"
        )
        self._running = Gauge(
            "pgbus_running_handlers", "Handlers at work now", ["listener_name"], registry=self.registry
        )
        self._latency = Histogram(
            "pgbus_event_latency_seconds",
            "Time from publishing, or from deliver_at, to the first call of the handler, by both clocks",
            ["listener_name"],
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self._lost = self._counter(
            "pgbus_lost_claims", "Claims freed before they were settled; their events are delivered again",
            "listener_name",
        )  # fmt: skip

    def _make_calls_and_tasks(self) -> None:
        self._calling = self._histogram(
            "pgbus_call_duration_seconds", "Time of a call, as its caller sees it", "procedure", "outcome"
        )
        self._serving = self._histogram(
            "pgbus_served_call_duration_seconds", "Time of a call in the worker that runs it", "procedure", "outcome"
        )
        self._tasks = self._histogram(
            "pgbus_task_duration_seconds", "Time of a run of a schedule", "schedule_name", "outcome"
        )

    def _make_leading(self) -> None:
        self._leads = Gauge("pgbus_leader", "1 while this process leads, else 0", registry=self.registry)
        self._sequenced = self._counter("pgbus_sequenced_events", "Events that this process, leading, put into the log")
        self._freed = self._counter("pgbus_freed_claims", "Claims of dead workers that this process, leading, freed")
        self._sessions_lost = self._counter("pgbus_lost_sessions", "Times that a worker's session was lost")
        self._part_failures = self._counter(
            "pgbus_part_failures", "Times that a part of a worker ended by a fault of code", "part"
        )

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, *labels: str) -> Histogram:
        return Histogram(name, meaning, labels, buckets=BUCKETS, registry=self.registry)

    # ---------------------------------------------------------------------------------------------------- observing

    def observe(self, happening: Happening) -> None:
        """Count a happening by its kind, under the name of its listener, procedure or schedule."""
        match happening:
            case Claimed(name, events):
                self._claimed.labels(name).inc(events)
            case Settled(name, done, retried, dead):
                for outcome, events in (("done", done), ("retried", retried), ("dead", dead)):
                    self._handled.labels(name, outcome).inc(events)
            case ClaimsLost(name, claims):
                self._lost.labels(name).inc(claims)
            case CallEnded(procedure, _, outcome, duration):
                self._serving.labels(procedure, outcome).observe(duration)
            case TaskEnded(name, _, outcome, duration):
                self._tasks.labels(name, outcome).observe(duration)
            case _:
                self._observe_worker(happening)

    def _observe_worker(self, happening: Happening) -> None:
        match happening:
            case Sequenced(events):
                self._sequenced.inc(events)
            case ClaimsFreed(claims):
                self._freed.inc(claims)
            case LeaderChanged(leads):
                self._leads.set(leads)
            case SessionLost():
                self._sessions_lost.inc()
            case PartFailed(part):
                self._part_failures.labels(part).inc()

    # ------------------------------------------------------------------------------------------------- instrumenting

    def around(self, operation: Operation) -> AbstractContextManager[object]:
        """Time an operation; see Instrument."""
        match operation:
            case Publish(messages):
                return self._publish([message.topic for message in messages])
            case Process():
                return self._process(operation)
            case Call(procedure):
                return self._call(procedure)
            case _:
                return nullcontext()

    @contextmanager
    def _publish(self, topics: Sequence[str]) -> Iterator[None]:
        started = time.perf_counter()
        outcome = "failed"
        try:
            yield
            outcome = "done"
            for topic in topics:
                self._published.labels(topic).inc()
        finally:
            self._publishing.labels(outcome).observe(time.perf_counter() - started)

    @contextmanager
    def _process(self, operation: Process) -> Iterator[None]:
        name = operation.listener_name
        if operation.attempt == 1:
            at = time.time()
            for message in operation.messages:
                if since := message.deliver_at or message.published_at:
                    self._latency.labels(name).observe(max(0.0, at - since.timestamp()))
        running = self._running.labels(name)
        running.inc()
        started = time.perf_counter()
        has_ended = True
        try:
            yield
        except Abandoned:
            has_ended = False
            raise
        finally:
            running.dec()
            if has_ended:
                self._handling.labels(name).observe(time.perf_counter() - started)

    @contextmanager
    def _call(self, procedure: str) -> Iterator[None]:
        started = time.perf_counter()
        outcome = "answered"
        try:
            yield
        except BaseException as error:
            outcome = type(error).__name__
            raise
        finally:
            self._calling.labels(procedure, outcome).observe(time.perf_counter() - started)
