"""Listeners as they are declared: what is taken, what is refused, and with which words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from sqlalchemy.orm import Session

import pgbus
from pgbus.listeners.listener import LANES, Listener


@pgbus.event("orders.placed")
@dataclass
class Placed:
    n: int


@dataclass
class NoEvent:
    n: int


@pytest.fixture
def bus() -> pgbus.Bus:
    return pgbus.create("postgresql://nowhere.invalid/nothing")


async def handle(event: Placed) -> None: ...


async def handle_list(events: list[Placed]) -> None: ...


async def handle_connection(event: Placed, own: asyncpg.Connection) -> None: ...


async def handle_blocking_session(event: Placed, session: Session) -> None: ...


def handle_plainly_with_asyncpg(event: Placed, own: asyncpg.Connection) -> None: ...


def declare(bus: pgbus.Bus, handler: Any = handle, *events: Any, **options: Any) -> Listener:
    bus.listener(*(events or (Placed,)), **options)(handler)
    return list(bus.registry.listeners)[-1]


def test_a_listener_has_the_documented_defaults(bus: pgbus.Bus) -> None:
    listener = declare(bus)
    assert listener.name == f"{__name__}.handle"
    assert (listener.patterns, listener.start, listener.concurrency) == (("orders.placed",), "now", 10)
    assert (listener.batch_size, listener.lanes, listener.timeout, listener.blocks) == (None, None, None, False)
    assert listener.retry == pgbus.RetryPolicy()
    assert listener.retry.max_attempts == 10


def test_the_decorator_returns_the_function_itself(bus: pgbus.Bus) -> None:
    assert bus.listener(Placed)(handle) is handle


def test_without_parentheses_the_decorator_says_so(bus: pgbus.Bus) -> None:
    with pytest.raises(TypeError, match="parentheses"):
        bus.listener(handle)  # type: ignore[call-overload]


def test_classes_topics_and_patterns_are_listened_to_each_once(bus: pgbus.Bus) -> None:
    listener = declare(bus, handle, Placed, "orders.placed", "orders.**", "orders.*")
    assert listener.patterns == ("orders.placed", "orders.**", "orders.*")


def test_the_annotation_stands_in_for_the_event(bus: pgbus.Bus) -> None:
    bus.listener(name="mail")(handle)
    bus.listener(name="mails", batch=True)(handle_list)
    assert [listener.patterns for listener in bus.listeners] == [("orders.placed",)] * 2


def test_retry_may_be_a_number_of_attempts(bus: pgbus.Bus) -> None:
    assert declare(bus, retry=3).retry == pgbus.RetryPolicy(max_attempts=3)


def test_an_ordered_listener_has_lanes(bus: pgbus.Bus) -> None:
    assert declare(bus, ordered=True).lanes == LANES
    assert declare(bus, ordered=True, on_poison="block", name="blocking").blocks


def test_options_are_what_the_database_shows(bus: pgbus.Bus) -> None:
    options = declare(bus, concurrency=3, ordered=True, retry=4, timeout=2.5).options()
    assert (options["concurrency"], options["ordered"], options["max_attempts"], options["timeout"]) == (
        3,
        True,
        4,
        2.5,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 10_001}, "batch_size"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": math.inf}, "timeout"),
        ({"timeout": math.nan}, "timeout"),
        ({"start": "tomorrow"}, "start"),
        ({"start": -1}, "start"),
        ({"start": True}, "start"),
        ({"start": datetime(2026, 1, 1)}, "time zone"),  # noqa: DTZ001 - what is refused
        ({"on_poison": "ignore"}, "on_poison"),
        ({"on_poison": "block"}, "ordered=True"),
        ({"retry": 0}, "retry is a RetryPolicy, or a whole number of attempts, at least 1, not 0"),
        ({"name": ""}, "name is a string of 1 to 255 characters"),
        ({"name": "x" * 256}, "name is a string of 1 to 255 characters"),
        ({"name": "a\x00b"}, "name is a string of 1 to 255 characters"),
        ({"transactional": True}, "a connection of asyncpg"),
        ({"batch": True}, "list"),
    ],
    ids=str,
)
def test_an_option_that_makes_no_sense_is_refused_by_name(
    bus: pgbus.Bus, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(pgbus.ConfigurationError, match=message):
        declare(bus, **options)
    assert len(bus.registry.listeners) == 0


@pytest.mark.parametrize("start", ["now", "beginning", 0, 7, datetime(2026, 1, 1, tzinfo=UTC)], ids=str)
def test_every_place_of_the_log_may_be_a_start(bus: pgbus.Bus, start: Any) -> None:
    assert declare(bus, start=start).start == start


@pytest.mark.parametrize(
    ("handler", "options", "message"),
    [
        (handle_connection, {}, "transactional=True"),
        (handle_blocking_session, {"transactional": True}, "a plain"),
        (handle_plainly_with_asyncpg, {"transactional": True}, "an async"),
        (handle_list, {"batch": True, "ordered": True}, "mixes keys"),
    ],
    ids=["connection", "blocking session", "plain with asyncpg", "ordered batch"],
)
def test_a_handler_that_does_not_fit_its_options_is_refused(
    bus: pgbus.Bus, handler: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(pgbus.ConfigurationError, match=message):
        declare(bus, handler, **options)


@pytest.mark.parametrize("event", [NoEvent, "two words", "", "a..b", 7], ids=str)
def test_what_is_no_event_topic_or_pattern_is_refused(bus: pgbus.Bus, event: Any) -> None:
    with pytest.raises(pgbus.ConfigurationError, match="handle"):
        declare(bus, handle, event)


def test_a_listener_to_nothing_is_refused(bus: pgbus.Bus) -> None:
    async def anything(event: dict[str, int]) -> None: ...

    with pytest.raises(pgbus.ConfigurationError, match="listens to nothing"):
        bus.listener()(anything)


def test_two_listeners_of_one_name_are_refused_and_the_first_stays(bus: pgbus.Bus) -> None:
    first = declare(bus, name="mail", concurrency=3)
    with pytest.raises(pgbus.DuplicateListenerName) as refused:
        declare(bus, name="mail", concurrency=4)
    assert refused.value.listener_name == "mail"
    assert bus.registry.listeners.get("mail") is first


def test_work_takes_names_and_refuses_a_typo(bus: pgbus.Bus) -> None:
    for name in ("a", "b", "c"):
        declare(bus, name=name)
    names = {listener.name for listener in bus.registry.work(only=["a", "b"], skip=["b"]).listeners}
    assert names == {"a"}
    assert [listener.name for listener in bus.registry.work().listeners] == ["a", "b", "c"]
    with pytest.raises(pgbus.ConfigurationError, match="declared are: a, b, c"):
        bus.registry.work(skip=["d"])


def test_a_watcher_hears_of_new_listeners_until_it_ends(bus: pgbus.Bus) -> None:
    heard: list[str] = []
    end = bus.registry.watch(heard.append)
    declare(bus, name="a")
    end()
    declare(bus, name="b")
    assert heard == ["a"]
    assert "b" in bus.registry.listeners
