"""What is exported to OpenTelemetry, by the semantic conventions 1.44 for messaging and RPC."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from types import ModuleType

import asyncpg
import pytest
from opentelemetry import baggage, trace
from opentelemetry.context import attach, detach
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Histogram, InMemoryMetricReader, Metric, Sum
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import messaging_attributes, rpc_attributes
from opentelemetry.semconv._incubating.metrics import messaging_metrics, rpc_metrics
from opentelemetry.semconv.attributes import error_attributes, server_attributes
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import SpanKind, StatusCode

import pgbus
from pgbus.admin import Admin
from pgbus.contrib.opentelemetry import OpenTelemetry, names
from pgbus.telemetry import Instruments
from tests.support.waiting import PATIENCE, eventually
from tests.support.workers import QUICK_RETRY, Inbox, Watch, open_bus, running, until_idle


class Exported:
    """The spans and metrics of one bus, and the providers that they go to."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meter_provider = MeterProvider(metric_readers=[self._reader])

    def instrument(self, bus: pgbus.Bus, *, create_spans: bool = True) -> None:
        bus.telemetry.instrument(
            OpenTelemetry(
                bus.config,
                tracer_provider=self.tracer_provider,
                meter_provider=self.meter_provider,
                create_spans=create_spans,
            )
        )

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    async def until(self, name: str, count: int = 1) -> list[ReadableSpan]:
        await eventually(lambda: len(self.named(name)) >= count, PATIENCE, message=f"{[s.name for s in self.spans]}")
        return self.named(name)

    def metrics(self) -> dict[str, Metric]:
        data = self._reader.get_metrics_data()
        assert data is not None
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def close(self) -> None:
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()


@pytest.fixture
def exported() -> Iterator[Exported]:
    found = Exported()
    yield found
    found.close()


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def ids(span: ReadableSpan) -> tuple[int, int]:
    """The trace of a span, and its id."""
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


def linked(span: ReadableSpan) -> list[tuple[int, int]]:
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def parent(span: ReadableSpan) -> tuple[int, int] | None:
    return (span.parent.trace_id, span.parent.span_id) if span.parent else None


def constants(*modules: ModuleType) -> set[str]:
    values = (getattr(module, name) for module in modules for name in dir(module) if name.isupper())
    return {value for value in values if isinstance(value, str)}


KNOWN = constants(messaging_attributes, rpc_attributes, error_attributes, server_attributes)
OWN = {names.ATTEMPT, names.OUTCOME, names.SCHEDULE_NAME}
REQUIRED = {
    "messaging": {"messaging.system", "messaging.operation.name", "messaging.operation.type"},
    "rpc": {"rpc.system.name", "rpc.method", "rpc.response.status_code"},
}
KINDS = {
    "publish": {SpanKind.PRODUCER, SpanKind.CLIENT},
    "create": {SpanKind.PRODUCER},
    "process": {SpanKind.CONSUMER},
}


def check_span(span: ReadableSpan) -> None:
    """Compare one exported span with the conventions."""
    has = attributes(span)
    assert set(has) <= KNOWN | OWN, span.name
    if span.name.startswith("run "):
        assert span.kind is SpanKind.INTERNAL
        return
    kind = "messaging" if "messaging.system" in has else "rpc"
    assert REQUIRED[kind] <= set(has), span.name
    assert has["messaging.system" if kind == "messaging" else "rpc.system.name"] == "pgbus"
    if kind == "messaging":
        operation = has["messaging.operation.name"]
        destination = has.get("messaging.destination.name")
        assert span.name == (f"{operation} {destination}" if destination else operation)
        assert span.kind in KINDS[str(operation)]
        assert ("messaging.batch.message_count" in has) != ("messaging.message.id" in has), span.name
    else:
        assert span.name == has["rpc.method"]
        assert span.kind in (SpanKind.CLIENT, SpanKind.SERVER)
        assert (has["rpc.response.status_code"] == "ok") != ("error.type" in has)
    assert ("error.type" in has) == (span.status.status_code is StatusCode.ERROR)


def check_metric(metric: Metric) -> None:
    """Compare one exported metric with the conventions."""
    assert metric.name in constants(messaging_metrics, rpc_metrics)
    assert metric.name not in ("messaging.process.messages", "messaging.publish.messages"), "deprecated"
    if isinstance(metric.data, Histogram):
        assert metric.unit == "s"
        assert all(tuple(point.explicit_bounds) == names.BUCKETS for point in metric.data.data_points)
    else:
        assert metric.unit == "{message}"
    for point in metric.data.data_points:
        assert set(point.attributes or {}) <= KNOWN | OWN
        assert not {"messaging.message.id", "messaging.message.conversation_id"} & set(point.attributes or {})


def test_our_names_are_those_of_the_conventions() -> None:
    ours = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    known = KNOWN | constants(messaging_metrics, rpc_metrics) | OWN
    assert ours - known == {names.SYSTEM, names.SCHEMA_URL}
    assert Schemas.V1_44_0.value == names.SCHEMA_URL


async def test_all_that_is_exported_conforms(database: str, exported: Exported, connection: asyncpg.Connection) -> None:
    async with open_bus(database) as bus:
        exported.instrument(bus)
        watch = Watch(bus)

        @bus.listener("a.*", name="half", retry=1)
        async def half(event: int) -> None:
            if event % 2:
                raise ValueError("odd")

        @bus.listener("b.*", name="batches", batch=True)
        async def batches(events: list[int]) -> None:
            pass

        @bus.procedure("math.divide")
        async def divide(one: int, other: int) -> float:
            return one / other

        @bus.client.every(hours=1, also_run_immediately=True, name="nightly")
        async def nightly() -> None:
            pass

        async with running(bus):
            await bus.publish(0, topic="a.b")
            await asyncio.to_thread(bus.publish_sync, 1, topic="a.b")
            await bus.publish_many([2, 3], topic="a.c")
            await bus.publish_many([4, 5], topic="b.c")
            assert await bus.call("math.divide", {"one": 1, "other": 2}) == 0.5
            with pytest.raises(pgbus.RemoteError):
                await bus.call("math.divide", {"one": 1, "other": 0})
            await exported.until("run nightly")
            await until_idle(connection)
            await watch.until(lambda _: len(exported.named("math.divide")) == 4)
    for span in exported.spans:
        check_span(span)
    assert {span.name for span in exported.spans} == {
        "publish a.b", "publish a.c", "publish b.c", "create a.c", "create b.c",
        "process a.b", "process a.c", "process b.c", "math.divide", "run nightly",
    }  # fmt: skip
    found = exported.metrics()
    assert set(found) == {
        names.SENT_MESSAGES, names.CONSUMED_MESSAGES, names.OPERATION_DURATION, names.PROCESS_DURATION,
        names.CLIENT_CALL_DURATION, names.SERVER_CALL_DURATION,
    }  # fmt: skip
    for metric in found.values():
        check_metric(metric)
    assert total(found[names.SENT_MESSAGES]) == 6
    assert total(found[names.CONSUMED_MESSAGES]) == 6


def total(metric: Metric) -> float:
    assert isinstance(metric.data, Sum)
    return sum(point.value for point in metric.data.data_points)


async def test_the_first_attempt_is_a_child_of_the_publisher_and_a_retry_has_a_trace_with_a_link(
    database: str, exported: Exported
) -> None:
    async with open_bus(database) as bus:
        exported.instrument(bus)

        @bus.listener("a.b", name="twice", retry=QUICK_RETRY)
        async def twice(event: int, context: pgbus.Context) -> None:
            if context.attempt == 1:
                raise ValueError("once")

        async with running(bus):
            with exported.tracer_provider.get_tracer("test").start_as_current_span("request") as request:
                message = await bus.publish(1, topic="a.b")
            [first, second] = await exported.until("process a.b", 2)
    [publish] = exported.named("publish a.b")
    assert parent(publish) == (request.get_span_context().trace_id, request.get_span_context().span_id)
    assert attributes(publish)["messaging.message.id"] == str(message.event_id)
    assert (parent(first), linked(first)) == (ids(publish), [])
    assert attributes(first)["error.type"] == "ValueError"
    assert attributes(first)["messaging.destination.subscription.name"] == "twice"
    assert [event.name for event in first.events] == ["exception"]
    assert (parent(second), linked(second)) == (None, [ids(publish)])
    assert attributes(second)[names.ATTEMPT] == 2
    assert second.status.status_code is StatusCode.UNSET


async def test_a_delayed_event_and_a_replayed_one_have_a_trace_of_their_own_with_a_link(
    database: str, exported: Exported, connection: asyncpg.Connection
) -> None:
    async with open_bus(database) as bus:
        exported.instrument(bus)
        heard: Inbox[int] = Inbox()

        @bus.listener("a.*", name="reader")
        async def reader(event: int) -> None:
            heard.put(event)

        async with running(bus):
            await bus.publish(1, topic="a.delayed", deliver_at=datetime.now(UTC) + timedelta(milliseconds=1))
            [delayed] = await exported.until("process a.delayed")
            await bus.publish(2, topic="a.old")
            await heard.take(2)
            await connection.execute("UPDATE pgbus.events SET published_at = now() - interval '1 hour'")
            async with Admin.connect(bus.config) as admin:
                await admin.listeners.reset("reader", to="beginning")
            await heard.take(4)
            old = await exported.until("process a.old", 2)
    assert (parent(delayed), linked(delayed)) == (None, [ids(exported.named("publish a.delayed")[0])])
    assert parent(old[0]) == ids(exported.named("publish a.old")[0])
    assert (parent(old[1]), linked(old[1])) == (None, [ids(exported.named("publish a.old")[0])])


async def test_events_in_bulk_have_a_span_each_which_the_publish_span_links_to(
    database: str, exported: Exported
) -> None:
    async with open_bus(database) as bus:
        exported.instrument(bus)

        @bus.listener("a.b", name="reader")
        async def reader(event: int) -> None:
            pass

        async with running(bus):
            event_ids = await bus.publish_many([1, 2], topic="a.b")
            handled = await exported.until("process a.b", 2)
    creates = exported.named("create a.b")
    [publish] = exported.named("publish a.b")
    assert (publish.kind, attributes(publish)["messaging.batch.message_count"]) == (SpanKind.CLIENT, 2)
    assert linked(publish) == [ids(create) for create in creates]
    assert [attributes(create)["messaging.message.id"] for create in creates] == [str(one) for one in event_ids]
    assert {parent(one) for one in handled} == {ids(create) for create in creates}


async def test_without_create_spans_events_in_bulk_are_children_of_the_one_that_publishes(
    database: str, exported: Exported
) -> None:
    async with open_bus(database) as bus:
        exported.instrument(bus, create_spans=False)

        @bus.listener("a.b", name="reader")
        async def reader(event: int) -> None:
            pass

        async with running(bus):
            await bus.publish_many([1, 2], topic="a.b")
            handled = await exported.until("process a.b", 2)
    [publish] = exported.named("publish a.b")
    assert publish.kind is SpanKind.PRODUCER
    assert {parent(one) for one in handled} == {ids(publish)}


async def test_a_batch_has_one_span_with_a_link_for_each_event(
    database: str, exported: Exported, connection: asyncpg.Connection
) -> None:
    async with open_bus(database) as bus:
        exported.instrument(bus)

        @bus.listener("a.*", name="batches", batch=True, start="beginning")
        async def batches(events: list[int]) -> None:
            pass

        await bus.publish(1, topic="a.b")
        await bus.publish(2, topic="a.c")
        async with running(bus):
            await until_idle(connection)
            await eventually(lambda: sum(one.kind is SpanKind.CONSUMER for one in exported.spans) >= 1, PATIENCE)
    spans = [span for span in exported.spans if span.kind is SpanKind.CONSUMER]
    published = [ids(span) for name in ("publish a.b", "publish a.c") for span in exported.named(name)]
    assert [one for span in spans for one in linked(span)] == published
    for link in (link for span in spans for link in span.links):
        assert set(link.attributes or {}) >= {"messaging.destination.name", "messaging.message.id"}
    assert all(parent(span) is None for span in spans)


@pytest.mark.parametrize("error", [pgbus.Retry("later", after=0.01), pgbus.Dead("never")])
async def test_what_a_handler_decides_is_no_error_of_its_span(
    database: str, exported: Exported, error: Exception
) -> None:
    async with open_bus(database) as bus:
        exported.instrument(bus)

        @bus.listener("a.b", name="decides", retry=2)
        async def decides(event: int, context: pgbus.Context) -> None:
            if context.attempt == 1:
                raise error

        async with running(bus):
            await bus.publish(1, topic="a.b")
            span, *_ = await exported.until("process a.b")
    assert attributes(span)[names.OUTCOME] == type(error).__name__.lower()
    assert span.status.status_code is StatusCode.UNSET


async def test_what_a_handler_publishes_is_in_its_trace(database: str, exported: Exported) -> None:
    async with open_bus(database) as bus:
        exported.instrument(bus)

        @bus.listener("a.b", name="first")
        def first(event: int, context: pgbus.Context) -> None:
            context.publish_sync(2, topic="c.d")

        @bus.listener("c.d", name="second")
        async def second(event: int) -> None:
            assert trace.get_current_span().get_span_context().is_valid

        async with running(bus):
            await bus.publish(1, topic="a.b")
            [last] = await exported.until("process c.d")
    [handled] = exported.named("process a.b")
    [published] = exported.named("publish c.d")
    assert parent(published) == ids(handled)
    assert parent(last) == ids(published)
    assert len({ids(span)[0] for span in exported.spans}) == 1


async def test_a_call_is_one_trace_from_caller_to_procedure_and_on(database: str, exported: Exported) -> None:
    async with open_bus(database) as bus:
        exported.instrument(bus)

        @bus.procedure("orders.place")
        async def place(n: int) -> int:
            await bus.publish(n, topic="orders.placed")
            return n

        async with running(bus):
            with exported.tracer_provider.get_tracer("test").start_as_current_span("request"):
                assert await bus.call("orders.place", {"n": 1}) == 1
            await exported.until("orders.place", 2)
    client, server = sorted(exported.named("orders.place"), key=lambda span: span.kind is SpanKind.SERVER)
    [published] = exported.named("publish orders.placed")
    assert (parent(server), parent(published)) == (ids(client), ids(server))
    assert len({ids(span)[0] for span in exported.spans}) == 1


async def test_the_cause_of_what_a_handler_publishes_is_in_the_trace_of_its_span(
    database: str, exported: Exported
) -> None:
    causes: Inbox[pgbus.Cause] = Inbox()
    async with open_bus(database) as bus:
        exported.instrument(bus)

        @bus.listener("a.b", name="reader")
        async def reader(event: int) -> None:
            cause = pgbus.current_cause()
            assert cause is not None
            causes.put(cause)

        async with running(bus):
            message = await bus.publish(1, topic="a.b")
            [cause] = await causes.take(1)
            [span] = await exported.until("process a.b")
    assert cause.traceparent.startswith("00-{:032x}-{:016x}-".format(*ids(span)))
    assert (cause.correlation_id, cause.causation_id) == (str(message.event_id), str(message.event_id))
    assert attributes(span)["messaging.message.conversation_id"] == str(message.event_id)


async def test_an_event_in_the_trace_of_a_request_that_has_no_span_goes_on_with_it(
    database: str, exported: Exported
) -> None:
    async with open_bus(database) as bus:
        exported.instrument(bus)
        with pgbus.caused_by(pgbus.Cause(correlation_id="r-1", traceparent=f"00-{'a' * 32}-{'b' * 16}-01")):
            await bus.publish(1, topic="a.b")
    [span] = exported.named("publish a.b")
    assert parent(span) == (int("a" * 32, 16), int("b" * 16, 16))
    assert attributes(span)["messaging.message.conversation_id"] == "r-1"


async def test_baggage_goes_from_a_request_through_handlers_and_calls(database: str, exported: Exported) -> None:
    heard: Inbox[object] = Inbox()
    async with open_bus(database) as bus:
        exported.instrument(bus)

        @bus.procedure("tenants.name")
        async def name(n: int) -> object:
            return baggage.get_baggage("tenant")

        @bus.listener("a.first", name="first", retry=QUICK_RETRY)
        async def first(event: int, context: pgbus.Context) -> None:
            if context.attempt == 1:
                raise ValueError("the second attempt has a trace of its own")
            heard.put(await bus.call("tenants.name", {"n": 1}))
            await context.publish(2, topic="a.second")

        @bus.listener("a.second", name="second")
        def second(event: int) -> None:
            heard.put(baggage.get_baggage("tenant"))

        async with running(bus):
            token = attach(baggage.set_baggage("tenant", "blue"))
            try:
                message = await bus.publish(1, topic="a.first")
            finally:
                detach(token)
            assert await heard.take(2) == ["blue", "blue"]
        assert message.headers["baggage"] == "tenant=blue"
        assert "baggage" not in (await bus.publish(3, topic="a.third")).headers


async def test_a_failed_publish_has_a_span_with_its_error(database: str, exported: Exported) -> None:
    async with open_bus("postgresql://nobody@127.0.0.1:1/x") as bus:
        exported.instrument(bus)
        with pytest.raises(pgbus.DatabaseUnreachableError):
            await bus.publish(1, topic="a.b")
    [span] = exported.named("publish a.b")
    check_span(span)
    assert attributes(span)["error.type"] == "pgbus.errors.DatabaseUnreachableError"
    assert (attributes(span)["server.address"], attributes(span)["server.port"]) == ("127.0.0.1", 1)


async def test_the_configuration_enables_the_plugin(database: str, exported: Exported) -> None:
    Instruments.set_everywhere(())  # Sentry's SDK, in another test, sets up one for the whole process
    config = {"dsn": database, "plugins": {"opentelemetry": {"enabled": True, "create_spans": False}}}
    async with pgbus.create(config=config) as bus:
        assert [type(one) for one in bus.registry.hooks.instruments.all] == [OpenTelemetry]
        await bus.publish(1, topic="a.b")  # with the API alone, which makes no spans
