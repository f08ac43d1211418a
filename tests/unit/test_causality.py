"""The cause of what is published: from a request's headers, from an event's, and for as long as the block lasts."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

import pgbus
from pgbus.causality import read_headers
from pgbus.contrib.starlette import PgBusMiddleware
from pgbus.errors import InvalidEventError

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
EVENT_ID = UUID("01a22271-f4e1-7421-9fef-5d4f65856ce1")


def test_a_requests_headers_say_what_it_belongs_to() -> None:
    headers = {"x-request-id": "r-1", "x-causation-id": str(EVENT_ID), "traceparent": TRACE, "tracestate": "a=1"}
    cause = pgbus.Cause.of_request(headers)
    assert cause.headers == {
        "correlation_id": "r-1",
        "causation_id": str(EVENT_ID),
        "traceparent": TRACE,
        "tracestate": "a=1",
    }


@pytest.mark.parametrize("value", ["", "a b", "x" * 256, "\n", "\xe9"])
def test_a_value_of_another_form_counts_as_none(value: str) -> None:
    names = ("x-correlation-id", "x-causation-id", "traceparent", "tracestate")
    cause = pgbus.Cause.of_request(dict.fromkeys(names, value))
    assert cause.correlation_id == str(UUID(cause.traceparent[3:35]))
    assert (cause.causation_id, cause.tracestate) == (None, None)
    of_event = pgbus.Cause.of(EVENT_ID, {"correlation_id": value, "traceparent": value})
    assert of_event == pgbus.Cause.of(EVENT_ID, {})
    with pytest.raises(InvalidEventError):
        pgbus.Cause(correlation_id=value)


def test_an_event_passes_its_trace_on_with_a_parent_of_its_own() -> None:
    cause = pgbus.Cause.of(EVENT_ID, {"correlation_id": "c", "traceparent": TRACE, "tracestate": "a=1"})
    assert cause.traceparent == f"{TRACE[:36]}9fef5d4f65856ce1-00"
    assert (cause.correlation_id, cause.causation_id, cause.tracestate) == ("c", str(EVENT_ID), "a=1")
    assert pgbus.Cause.of(UUID(int=0), {}).traceparent == f"00-{'0' * 31}1-{'0' * 15}1-01"


def test_headers_that_are_no_strings_are_none() -> None:
    assert [read_headers(raw) for raw in (None, "", "[]", '{"a": 1}', "{")] == [{}] * 5


def test_a_block_ends_with_the_cause_that_was_there_before() -> None:
    one, two = pgbus.Cause(correlation_id="one"), pgbus.Cause(correlation_id="two")
    with pgbus.caused_by(one):
        with pgbus.caused_by(two):
            assert pgbus.current_cause() == two
        assert pgbus.current_cause() == one
    assert pgbus.current_cause() is None


async def test_what_a_request_publishes_is_caused_by_it() -> None:
    found: list[pgbus.Cause | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.append(await asyncio.create_task(_current()))

    async def nothing(*_: Any) -> Any:
        return {}

    middleware = PgBusMiddleware(app, pgbus.create("postgresql://nowhere.invalid/x"))
    headers = [(b"x-correlation-id", b"r-2"), (b"traceparent", TRACE.encode())]
    await middleware({"type": "http", "headers": headers, "method": "GET", "path": "/"}, nothing, nothing)
    await middleware({"type": "lifespan"}, nothing, nothing)
    assert found == [pgbus.Cause(correlation_id="r-2", traceparent=TRACE), None]


async def _current() -> pgbus.Cause | None:
    return pgbus.current_cause()
