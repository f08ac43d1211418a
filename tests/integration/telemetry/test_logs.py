"""The lines of a worker that logs JSON."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from pgbus.cli.logs import configure_logging
from pgbus.telemetry import Settled
from tests.support.workers import QUICK_RETRY, Watch, open_bus, running


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)


async def test_what_a_handler_logs_and_its_failure_have_the_trace_of_the_event(
    database: str, stream: io.StringIO
) -> None:
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    async with open_bus(database) as bus:
        watch = Watch(bus)

        @bus.listener("a.b", name="fails", retry=QUICK_RETRY)
        async def fails(event: int) -> None:
            logging.getLogger("shop").info("at work")
            raise ValueError("no")

        async with running(bus):
            configure_logging(level="info", format="json", stream=stream)
            message = await bus.publish(
                1, topic="a.b", headers={"traceparent": traceparent, "correlation_id": "order-7"}
            )
            await watch.until(lambda _: any(one.dead for one in watch.of(Settled)))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    found = [one for one in lines if one["message"] == "at work" or "fails" in one["message"]]
    assert len(found) >= 6
    assert {(one["trace_id"], one["correlation_id"]) for one in found} == {("a" * 32, "order-7")}
    failures = [one for one in found if one["message"] != "at work"]
    assert {(one["listener_name"], one["event_id"]) for one in failures} == {("fails", str(message.event_id))}
