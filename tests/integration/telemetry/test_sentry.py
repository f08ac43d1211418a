"""What is sent to Sentry, by a transport that keeps it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.dedupe import DedupeIntegration
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.transport import Transport

import pgbus
from pgbus.contrib.sentry import _INSTRUMENT, PgbusIntegration, monitor_config, slug_of
from pgbus.telemetry import Instruments, Settled, TaskEnded
from tests.support.waiting import PATIENCE, eventually
from tests.support.workers import QUICK_RETRY, Watch, open_bus, running


class Kept(Transport):
    """Keeps what is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[tuple[str, dict[str, Any]]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.items += [(item.headers["type"], item.payload.json or {}) for item in envelope.items]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [payload for found, payload in self.items if found == kind]

    async def until(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        await eventually(lambda: len(self.of(kind)) >= count, PATIENCE, message=str(self.items))
        return self.of(kind)


@pytest.fixture(autouse=True)
def uninstrumented_afterwards() -> Iterator[None]:
    # The SDK calls it once in a process, and other tests may run in between.
    Instruments.add_everywhere(_INSTRUMENT)
    yield
    sentry_sdk.init(default_integrations=False, auto_enabling_integrations=False)
    Instruments.set_everywhere(())


@pytest.fixture
def kept() -> Kept:
    kept = Kept()
    sentry_sdk.init(
        "https://key@sentry.invalid/1",
        transport=kept,
        traces_sample_rate=1.0,
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=[PgbusIntegration(monitor_schedules=True), LoggingIntegration(), DedupeIntegration()],
    )
    return kept


async def test_a_handler_is_a_transaction_of_its_publishers_trace(database: str, kept: Kept) -> None:
    async with open_bus(database) as bus:

        @bus.listener("a.b", name="reader")
        async def reader(event: int) -> None:
            pass

        async with running(bus):
            with sentry_sdk.start_transaction(op="http.server", name="POST /orders") as request:
                message = await bus.publish(1, topic="a.b", headers={"baggage": "tenant=7"})
            [_, handled] = sorted(await kept.until("transaction", 2), key=lambda one: one["transaction"] == "reader")
            found = sorted(kept.of("transaction"), key=lambda one: one["transaction"] == "reader")
    [span] = found[0]["spans"]
    assert (span["op"], span["description"]) == ("queue.publish", "a.b")
    assert span["data"]["messaging.message.id"] == str(message.event_id)
    trace = handled["contexts"]["trace"]
    assert (trace["op"], trace["trace_id"], trace["parent_span_id"]) == (
        "queue.process", request.trace_id, span["span_id"],
    )  # fmt: skip
    assert trace["data"]["messaging.destination.name"] == "a.b"
    assert trace["data"]["messaging.message.retry.count"] == 0
    assert trace["data"]["messaging.message.receive.latency"] >= 0
    assert handled["contexts"]["pgbus"]["event_id"] == str(message.event_id)
    assert kept.of("event") == []
    assert message.headers["baggage"].startswith("tenant=7,sentry-")


async def test_each_failed_attempt_is_one_error_with_its_event_and_breadcrumbs(database: str, kept: Kept) -> None:
    async with open_bus(database) as bus:
        watch = Watch(bus)

        @bus.listener("a.b", name="fails", retry=QUICK_RETRY)
        async def fails(event: int, context: pgbus.Context) -> None:
            await context.publish(2, topic="c.d")
            raise ValueError("always")

        async with running(bus):
            await bus.publish(1, topic="a.b")
            await watch.until(lambda _: any(one.dead for one in watch.of(Settled)))
        errors = kept.of("event")
    assert [one["exception"]["values"][-1]["value"] for one in errors] == ["always"] * 3
    assert [one["contexts"]["pgbus"]["attempt"] for one in errors] == [1, 2, 3]
    mechanism = errors[0]["exception"]["values"][-1]["mechanism"]
    assert (mechanism["type"], mechanism["handled"]) == ("pgbus", False)
    assert [crumb["message"] for crumb in errors[1]["breadcrumbs"]["values"] if crumb["category"] == "pgbus"] == [
        "publish c.d"
    ]


@pytest.mark.parametrize("error", [pgbus.Retry("later", after=0.01), pgbus.Dead("never")])
async def test_what_a_handler_decides_is_no_error(database: str, kept: Kept, error: Exception) -> None:
    async with open_bus(database) as bus:
        watch = Watch(bus)

        @bus.listener("a.b", name="decides", retry=QUICK_RETRY)
        async def decides(event: int) -> None:
            raise error

        async with running(bus):
            await bus.publish(1, topic="a.b")
            await watch.until(lambda _: any(one.dead for one in watch.of(Settled)))
    assert kept.of("event") == []
    assert {
        one["contexts"]["trace"]["status"] for one in kept.of("transaction") if one["transaction"] == "decides"
    } == {"aborted"}


async def test_an_event_that_cannot_be_decoded_is_reported_by_its_log_line(database: str, kept: Kept) -> None:
    async with open_bus(database) as bus:
        watch = Watch(bus)

        @bus.listener("a.b", name="numbers")
        async def numbers(event: int) -> None:
            pass

        async with running(bus):
            await bus.publish("no number", topic="a.b")
            await watch.until(lambda _: any(one.dead for one in watch.of(Settled)))
    [report] = kept.of("event")
    assert "numbers gave up on event" in report["logentry"]["formatted"]


async def test_a_procedure_is_a_transaction_and_its_failure_an_error(database: str, kept: Kept) -> None:
    async with open_bus(database) as bus:

        @bus.procedure("math.divide")
        async def divide(one: int, other: int) -> float:
            return one / other

        async with running(bus):
            with pytest.raises(pgbus.RemoteError):
                await bus.call("math.divide", {"one": 1, "other": 0})
            [transaction] = [one for one in await kept.until("transaction") if one["transaction"] == "math.divide"]
            [error] = await kept.until("event")
    assert transaction["contexts"]["trace"]["op"] == "rpc.server"
    assert error["exception"]["values"][-1]["type"] == "ZeroDivisionError"
    assert error["contexts"]["pgbus"]["procedure"] == "math.divide"


async def test_a_run_of_a_schedule_checks_in_with_its_monitor(database: str, kept: Kept) -> None:
    async with open_bus(database) as bus:
        watch = Watch(bus)

        @bus.client.every(hours=1, also_run_immediately=True, name="Nightly report")
        async def nightly() -> None:
            raise ValueError("no paper")

        async with running(bus):
            await watch.first(TaskEnded)
    begun, ended = kept.of("check_in")
    assert (begun["status"], ended["status"]) == ("in_progress", "error")
    assert begun["check_in_id"] == ended["check_in_id"]
    assert begun["monitor_slug"] == "nightly-report"
    assert begun["monitor_config"]["schedule"] == {"type": "interval", "value": 60, "unit": "minute"}
    [error] = kept.of("event")
    assert error["exception"]["values"][-1]["value"] == "no paper"


async def test_a_bus_is_silent_for_a_client_without_the_integration(database: str) -> None:
    kept = Kept()
    sentry_sdk.init(
        "https://key@sentry.invalid/1",
        transport=kept,
        traces_sample_rate=1.0,
        default_integrations=False,
        auto_enabling_integrations=False,
    )
    async with open_bus(database) as bus:
        await bus.publish(1, topic="a.b")
    assert kept.items == []


@pytest.mark.parametrize(
    ("rule", "config"),
    [
        ("every 300 s", {"schedule": {"type": "interval", "value": 5, "unit": "minute"}}),
        ("0 3 * * * in UTC", {"schedule": {"type": "crontab", "value": "0 3 * * *"}, "timezone": "UTC"}),
        ("every 90 s", None),
        ("every 60 to 120 s", None),
    ],
)
def test_a_rule_becomes_that_of_a_monitor_where_sentry_has_words_for_it(rule: str, config: object) -> None:
    assert monitor_config(rule) == config


def test_a_slug_has_only_what_sentry_allows() -> None:
    assert slug_of("shop-jobs.Nightly Report!") == "shop-jobs-nightly-report"
    assert len(slug_of("x" * 80)) == 50
    assert slug_of("§") == "schedule"
