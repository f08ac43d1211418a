"""The instrument: a span around each operation, and what the metrics count of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from msgspec.structs import replace
from opentelemetry import metrics, propagate, trace
from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.metrics import Histogram, MeterProvider
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.util.types import AttributeValue

from pgbus.causality import CORRELATION_ID, Causing, caused_by
from pgbus.config import Config
from pgbus.contrib.opentelemetry import names
from pgbus.contrib.opentelemetry.metrics import ConventionMetrics
from pgbus.errors import Dead, Retry
from pgbus.messages import EventMessage
from pgbus.telemetry import Abandoned, Call, Operation, Process, Publish, Run, Serve

Attributes = dict[str, AttributeValue]

_NOTHING = nullcontext()

# An event that is handled later than this after it was published, as in a replay, has a trace of its own, with a link:
# backends wait no more than minutes for the rest of a trace.
FRESH = timedelta(minutes=1)


@dataclass(slots=True)
class _Ending:
    """The attributes that the end of an operation adds, in spans and in metrics."""

    attributes: Attributes = field(default_factory=dict)
    is_abandoned: bool = False


class OpenTelemetry:
    """Makes spans and metrics of a bus's operations: `bus.telemetry.instrument(OpenTelemetry(bus.config))`.

    - `tracer_provider`, `meter_provider`: default: those of the process, which its SDK has set.
    - `create_spans`: `publish_many` makes a span for each event, and not only one for all; default: yes.
    """

    def __init__(
        self,
        config: Config,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        create_spans: bool = True,
    ) -> None:
        self._tracer = trace.get_tracer("pgbus", tracer_provider=tracer_provider, schema_url=names.SCHEMA_URL)
        meter = metrics.get_meter("pgbus", meter_provider=meter_provider, schema_url=names.SCHEMA_URL)
        self._metrics = ConventionMetrics(meter)
        self._server = names.server_of(config)
        self._create_spans = create_spans

    def around(self, operation: Operation) -> AbstractContextManager[object]:
        """Surround an operation with its span; see Instrument."""
        match operation:
            case Publish(messages, in_bulk):
                return self._publish_many(messages) if in_bulk else self._publish(messages[0])
            case Process():
                return self._process(operation)
            case Call():
                return self._call(operation)
            case Serve():
                return self._serve(operation)
            case Run():
                return self._run(operation)

    # --------------------------------------------------------------------------------------------------- publishing

    @contextmanager
    def _publish(self, message: EventMessage) -> Iterator[None]:
        attributes = self._messaging("publish", "send", message.topic)
        # Where no span is current, the trace in the headers goes on: that of a request, or of what has caused this.
        parent = None if trace.get_current_span().get_span_context().is_valid else _extract(message.headers)
        with self._span(
            f"publish {message.topic}",
            SpanKind.PRODUCER,
            attributes,
            _identity(message),
            histogram=self._metrics.operations,
            parent=parent,
        ) as ending:
            propagate.inject(message.headers)
            try:
                yield
            finally:
                self._metrics.sent.add(1, {**attributes, **ending.attributes})

    @contextmanager
    def _publish_many(self, messages: Sequence[EventMessage]) -> Iterator[None]:
        topic = _shared_topic(messages)
        attributes = self._messaging("publish", "send", topic)
        links = [self._create(message) for message in messages] if self._create_spans else []
        with self._span(
            f"publish {topic}" if topic else "publish",
            SpanKind.CLIENT if links else SpanKind.PRODUCER,
            attributes,
            {names.BATCH_COUNT: len(messages)},
            histogram=self._metrics.operations,
            links=links,
        ) as ending:
            if not links:
                for message in messages:
                    propagate.inject(message.headers)
            try:
                yield
            finally:
                for message in messages:
                    sent = {**attributes, names.DESTINATION_NAME: message.topic, **ending.attributes}
                    self._metrics.sent.add(1, sent)

    def _create(self, message: EventMessage) -> Link:
        attributes = {**self._messaging("create", "create", message.topic), **_identity(message)}
        span = self._tracer.start_span(f"create {message.topic}", kind=SpanKind.PRODUCER, attributes=attributes)
        propagate.inject(message.headers, trace.set_span_in_context(span))
        span.end()
        return Link(span.get_span_context())

    # --------------------------------------------------------------------------------------------------- processing

    @contextmanager
    def _process(self, operation: Process) -> Iterator[None]:
        messages = operation.messages
        topic = _shared_topic(messages)
        attributes = self._messaging("process", "process", topic)
        attributes[names.SUBSCRIPTION_NAME] = operation.listener_name
        own: Attributes = {names.BATCH_COUNT: len(messages)} if operation.in_batch else _identity(messages[0])
        parent, links = _origin(operation)
        with self._span(
            f"process {topic}" if topic else "process",
            SpanKind.CONSUMER,
            attributes,
            {**own, names.ATTEMPT: operation.attempt},
            histogram=self._metrics.processing,
            parent=parent,
            links=links,
            causing=messages[0],
        ) as ending:
            try:
                yield
            finally:
                if not ending.is_abandoned:
                    self._metrics.consumed.add(len(messages), {**attributes, **ending.attributes})

    # ------------------------------------------------------------------------------------------------ calls and runs

    @contextmanager
    def _call(self, operation: Call) -> Iterator[None]:
        attributes = self._rpc(operation.procedure)
        with (
            self._span(operation.procedure, SpanKind.CLIENT, attributes, {}, histogram=self._metrics.calling) as ending,
            _with_status(ending),
        ):
            propagate.inject(operation.headers)
            yield

    @contextmanager
    def _serve(self, operation: Serve) -> Iterator[None]:
        with (
            self._span(
                operation.procedure,
                SpanKind.SERVER,
                self._rpc(operation.procedure),
                {},
                histogram=self._metrics.serving,
                parent=_extract(operation.headers),
                causing=operation,
            ) as ending,
            _with_status(ending),
        ):
            yield

    def _run(self, operation: Run) -> AbstractContextManager[object]:
        attributes: Attributes = {names.SCHEDULE_NAME: operation.schedule_name, names.ATTEMPT: operation.attempt}
        return self._span(f"run {operation.schedule_name}", SpanKind.INTERNAL, {}, attributes, causing=operation)

    # -------------------------------------------------------------------------------------------------------- spans

    @contextmanager
    def _span(
        self,
        name: str,
        kind: SpanKind,
        attributes: Attributes,
        own: Attributes,
        *,
        histogram: Histogram | None = None,
        parent: Context | None = None,
        links: Sequence[Link] = (),
        causing: Causing | None = None,
    ) -> Iterator[_Ending]:
        """Make a span the current one; `own` are attributes of the span that metrics do not have.

        `causing`: the event, call or run at work. What it publishes and logs is then in the trace of the span.
        """
        ending = _Ending()
        started = time.perf_counter()
        with (
            _within(parent) if parent is not None else _NOTHING,
            self._tracer.start_as_current_span(
                name,
                kind=kind,
                attributes={**attributes, **own},
                links=links,
                record_exception=False,
                set_status_on_exception=False,
            ) as span,
        ):
            try:
                with _in_trace(span, causing) if causing else _NOTHING:
                    yield ending
            except BaseException as error:
                _note(error, ending, span)
                raise
            finally:
                span.set_attributes(ending.attributes)
                if histogram and not ending.is_abandoned:
                    histogram.record(time.perf_counter() - started, {**attributes, **ending.attributes})

    def _messaging(self, name: str, kind: str, topic: str | None) -> Attributes:
        attributes: Attributes = {
            names.MESSAGING_SYSTEM: names.SYSTEM,
            names.OPERATION_NAME: name,
            names.OPERATION_TYPE: kind,
            **self._server,
        }
        if topic:
            attributes[names.DESTINATION_NAME] = topic
        return attributes

    def _rpc(self, procedure: str) -> Attributes:
        return {names.RPC_SYSTEM: names.SYSTEM, names.RPC_METHOD: procedure, **self._server}


def _extract(headers: Mapping[str, str]) -> Context:
    """The current context with the trace and the baggage in these headers."""
    return propagate.extract(headers, get_current())


@contextmanager
def _within(context: Context) -> Iterator[None]:
    """Make this context the current one: a tracer would take the parent from it, and leave its baggage behind."""
    token = attach(context)
    try:
        yield
    finally:
        detach(token)


@contextmanager
def _with_status(ending: _Ending) -> Iterator[None]:
    """Note how a call ends: `ok`, or the class of the error."""
    try:
        yield
    except BaseException as error:
        ending.attributes[names.RPC_STATUS] = type(error).__name__
        raise
    ending.attributes[names.RPC_STATUS] = "ok"


def _in_trace(span: Span, causing: Causing) -> AbstractContextManager[None]:
    context = span.get_span_context()
    if not context.is_valid:  # there is no SDK
        return _NOTHING
    traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    tracestate = context.trace_state.to_header() or None
    return caused_by(replace(causing.cause, traceparent=traceparent, tracestate=tracestate))


def _identity(message: EventMessage) -> Attributes:
    event_id = str(message.event_id)
    return {names.MESSAGE_ID: event_id, names.CONVERSATION_ID: message.headers.get(CORRELATION_ID, event_id)}


def _shared_topic(messages: Sequence[EventMessage]) -> str | None:
    topics = {message.topic for message in messages}
    return topics.pop() if len(topics) == 1 else None


def _note(error: BaseException, ending: _Ending, span: Span) -> None:
    """Note the error that ends an operation. `Retry` and `Dead` are what a handler decides, and are not failures."""
    match error:
        case Abandoned():
            ending.is_abandoned = True
            span.set_attribute(names.OUTCOME, "abandoned")
        case Retry() | Dead():
            ending.attributes[names.OUTCOME] = type(error).__name__.lower()
        case _:
            ending.attributes[names.ERROR_TYPE] = _type_of(error)
            span.set_status(Status(StatusCode.ERROR, str(error)))
            span.record_exception(error)


def _type_of(error: BaseException) -> str:
    cls = type(error)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _origin(operation: Process) -> tuple[Context | None, list[Link]]:
    """The parent of a span, and its links to where each event was created.

    That is the parent of the first attempt at a single event that was not delayed. Any other attempt begins a trace of
    its own, unless a span is current.
    """
    spans = [
        trace.get_current_span(propagate.extract(message.headers)).get_span_context() for message in operation.messages
    ]
    context = _extract(operation.messages[0].headers)
    is_inside = trace.get_current_span().get_span_context().is_valid
    if not (is_inside or operation.in_batch) and operation.attempt == 1 and _is_fresh(operation.messages[0]):
        return context, []
    links = [
        Link(span, {names.DESTINATION_NAME: message.topic, **_identity(message)} if operation.in_batch else None)
        for message, span in zip(operation.messages, spans, strict=True)
        if span.is_valid
    ]
    # The baggage stays, that of a batch's first event.
    return None if is_inside else trace.set_span_in_context(INVALID_SPAN, context), links


def _is_fresh(message: EventMessage) -> bool:
    since = message.published_at
    return message.deliver_at is None and since is not None and datetime.now(UTC) - since < FRESH
