"""Sentry: `sentry_sdk.init(..., integrations=[PgbusIntegration()])` reports errors, transactions and missed schedules.

A transaction for each call of a handler, each call of a procedure and each run of a schedule; a span and a breadcrumb
for what is published or called. `pgbus.Retry` and `pgbus.Dead` are what a handler decides, and are not reported.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import sentry_sdk
from sentry_sdk.consts import OP, SPANDATA, SPANSTATUS
from sentry_sdk.crons import capture_checkin
from sentry_sdk.crons.consts import MonitorStatus
from sentry_sdk.integrations import Integration
from sentry_sdk.scope import add_global_event_processor
from sentry_sdk.tracing import Span, TransactionSource
from sentry_sdk.utils import event_from_exception

from pgbus.errors import Dead, Retry
from pgbus.messages import EventMessage
from pgbus.schedules.rules import Cron, Every, parse_rule
from pgbus.telemetry import Abandoned, Call, Instruments, Operation, Process, Publish, Run, Serve

if TYPE_CHECKING:
    from sentry_sdk._types import Event, Hint, MonitorConfig

_ORIGIN = "auto.queue.pgbus"
_SYSTEM = "pgbus"
# The ids of the events that a handler was called for last, by this task of the worker.
_processed: ContextVar[frozenset[str]] = ContextVar("pgbus_sentry_processed", default=frozenset())
_SLUG_LENGTH = 50
_UNFIT = re.compile(r"[^a-z0-9_-]+")
_MINUTE = timedelta(minutes=1)


class PgbusIntegration(Integration):
    """Reports what every bus of the process does.

    `monitor_schedules`: check in with Sentry's cron monitors at each run of a schedule, which makes a monitor for each
    schedule; default: no.
    """

    identifier = "pgbus"
    origin = _ORIGIN

    def __init__(self, *, monitor_schedules: bool = False) -> None:
        self.monitor_schedules = monitor_schedules

    @staticmethod
    def setup_once() -> None:
        """Instrument every bus; called by the SDK."""
        Instruments.add_everywhere(_INSTRUMENT)
        add_global_event_processor(_drop_failure_line)


def _drop_failure_line(event: Event, hint: Hint) -> Event | None:
    """Drop what Sentry makes of the line that logs a failure which the instrument has seen.

    One that it has not seen, as of an event that cannot be decoded, is reported by that line alone.
    """
    record = hint.get("log_record")
    if not isinstance(record, logging.LogRecord) or record.name != "pgbus":
        return event
    was_seen = hasattr(record, "schedule_name") or getattr(record, "event_id", None) in _processed.get()
    return None if was_seen else event


class _SentryInstrument:
    """Does nothing for a client without the integration."""

    def around(self, operation: Operation) -> AbstractContextManager[object]:
        """Surround an operation with a transaction or a span; see Instrument."""
        integration = sentry_sdk.get_client().get_integration(PgbusIntegration)
        if integration is None:
            return nullcontext()
        match operation:
            case Publish(messages):
                return _publish(messages[0], len(messages))
            case Process():
                return _process(operation)
            case Call():
                return _call(operation)
            case Serve():
                return _serve(operation)
            case Run():
                return _run(operation, has_monitor=integration.monitor_schedules)


_INSTRUMENT = _SentryInstrument()


# ------------------------------------------------------------------------------------------------------ what goes out


@contextmanager
def _publish(message: EventMessage, count: int) -> Iterator[None]:
    data = {"event_id": str(message.event_id)} if count == 1 else {"events": count}
    sentry_sdk.add_breadcrumb(category="pgbus", type="default", message=f"publish {message.topic}", data=data)
    with sentry_sdk.start_span(op=OP.QUEUE_PUBLISH, name=message.topic, origin=_ORIGIN) as span:
        _describe(span, message)
        _add_headers(message.headers, span)
        yield


@contextmanager
def _call(operation: Call) -> Iterator[None]:
    data = {"call_id": str(operation.call_id)}
    sentry_sdk.add_breadcrumb(category="pgbus", type="default", message=f"call {operation.procedure}", data=data)
    with sentry_sdk.start_span(op="rpc.client", name=operation.procedure, origin=_ORIGIN) as span:
        _add_headers(operation.headers, span)
        yield


def _add_headers(headers: MutableMapping[str, str], span: Span) -> None:
    """Add the trace; baggage that is there already stays, in front."""
    for name, value in sentry_sdk.get_current_scope().iter_trace_propagation_headers(span=span):
        if name == "baggage" and "sentry-" not in headers.get(name, "sentry-"):
            value = f"{headers[name]},{value}"
        headers[name] = value


def _describe(span: Span, message: EventMessage) -> None:
    span.set_data(SPANDATA.MESSAGING_SYSTEM, _SYSTEM)
    span.set_data(SPANDATA.MESSAGING_DESTINATION_NAME, message.topic)
    span.set_data(SPANDATA.MESSAGING_MESSAGE_ID, str(message.event_id))


# ------------------------------------------------------------------------------------------------------- what comes in


@contextmanager
def _process(operation: Process) -> Iterator[None]:
    message = operation.messages[0]
    _processed.set(frozenset(str(one.event_id) for one in operation.messages))
    facts = {
        "listener_name": operation.listener_name,
        "topic": message.topic,
        "key": message.key,
        "event_id": str(message.event_id),
        "position": message.position,
        "attempt": operation.attempt,
        "events": len(operation.messages),
    }
    with _transaction(OP.QUEUE_PROCESS, operation.listener_name, message.headers, facts) as span:
        _describe(span, message)
        span.set_data(SPANDATA.MESSAGING_MESSAGE_RETRY_COUNT, operation.attempt - 1)
        if since := message.deliver_at or message.published_at:
            span.set_data(SPANDATA.MESSAGING_MESSAGE_RECEIVE_LATENCY, _milliseconds_since(since))
        yield


def _serve(operation: Serve) -> AbstractContextManager[object]:
    facts = {"procedure": operation.procedure, "call_id": str(operation.call_id)}
    return _transaction("rpc.server", operation.procedure, operation.headers, facts)


@contextmanager
def _run(operation: Run, *, has_monitor: bool) -> Iterator[None]:
    facts = {"schedule_name": operation.schedule_name, "run_id": str(operation.run_id), "attempt": operation.attempt}
    config = monitor_config(operation.rule) if has_monitor else None
    with _transaction("queue.schedule", operation.schedule_name, {}, facts):
        if config is None:
            yield
            return
        with _checked_in(slug_of(operation.schedule_name), config):
            yield


@contextmanager
def _checked_in(slug: str, config: MonitorConfig) -> Iterator[None]:
    started = time.monotonic()
    check_in_id = capture_checkin(slug, status=MonitorStatus.IN_PROGRESS, monitor_config=config)
    status = MonitorStatus.ERROR
    try:
        yield
        status = MonitorStatus.OK
    finally:
        duration = time.monotonic() - started
        capture_checkin(slug, check_in_id, status, duration=duration, monitor_config=config)


@contextmanager
def _transaction(op: str, name: str, headers: Mapping[str, str], facts: Mapping[str, object]) -> Iterator[Span]:
    with sentry_sdk.isolation_scope() as scope:
        scope.clear_breadcrumbs()
        scope.set_context("pgbus", dict(facts))
        scope.set_transaction_name(name, source=TransactionSource.TASK)
        transaction = sentry_sdk.continue_trace(
            dict(headers), op=op, name=name, source=TransactionSource.TASK, origin=_ORIGIN
        )
        decision: Exception | None = None
        with sentry_sdk.start_transaction(transaction) as span:
            try:
                yield span
            except (Retry, Dead, Abandoned) as error:
                span.set_status(SPANSTATUS.ABORTED)
                decision = error  # raised outside: a transaction that an exception leaves counts as failed
            except BaseException as error:
                span.set_status(SPANSTATUS.INTERNAL_ERROR)
                if isinstance(error, Exception | SystemExit):
                    _capture(error)
                raise
        if decision is not None:
            raise decision


def _capture(error: BaseException) -> None:
    event, hint = event_from_exception(
        error,
        client_options=sentry_sdk.get_client().options,
        mechanism={"type": PgbusIntegration.identifier, "handled": False},
    )
    sentry_sdk.capture_event(event, hint=hint)


def _milliseconds_since(instant: datetime) -> float:
    return max(0.0, (datetime.now(UTC) - instant).total_seconds() * 1000)


# ------------------------------------------------------------------------------------------------------------ monitors


def slug_of(schedule_name: str) -> str:
    """Return the name of a schedule's monitor: at most 50 of a-z, 0-9, _ and -."""
    return _UNFIT.sub("-", schedule_name.lower()).strip("-")[-_SLUG_LENGTH:].strip("-") or "schedule"


def monitor_config(rule: str) -> MonitorConfig | None:
    """Return the rule of a monitor; None for a rule that Sentry has no words for: random, or not in whole minutes."""
    match parse_rule(rule):
        case Cron(expression=expression, timezone=timezone):
            return {"schedule": {"type": "crontab", "value": expression}, "timezone": timezone}
        case Every(interval=interval, up_to=None) if interval % _MINUTE == timedelta(0):
            return {"schedule": {"type": "interval", "value": interval // _MINUTE, "unit": "minute"}}
    return None
