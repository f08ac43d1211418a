"""Options of a wrong type are refused where they are given, by name, with the value and what is expected."""

from __future__ import annotations

from typing import Any

import pytest

import pgbus


@pytest.fixture
def bus() -> pgbus.Bus:
    return pgbus.create("postgresql://localhost/nowhere")


def handle(event: Any) -> None: ...


LISTENER = [
    ({"concurrency": "3"}, "concurrency is a whole number of events, at least 1, not '3'"),
    ({"concurrency": 2.5}, "concurrency is a whole number of events, at least 1, not 2.5"),
    ({"concurrency": True}, "concurrency is a whole number of events, at least 1, not True"),
    ({"concurrency": None}, "concurrency is a whole number of events, at least 1, not None"),
    ({"batch_size": "10"}, "batch_size is a whole number of events, between 1 and 10000, not '10'"),
    ({"ordered": "yes"}, "ordered is True or False, not 'yes'"),
    ({"transactional": 1}, "transactional is True or False, not 1"),
    ({"retry": "3"}, "retry is a RetryPolicy, or a whole number of attempts, at least 1, not '3'"),
    ({"retry": None}, "retry is a RetryPolicy, or a whole number of attempts, at least 1, not None"),
    ({"retry": True}, "retry is a RetryPolicy, or a whole number of attempts, at least 1, not True"),
    ({"timeout": "5"}, "timeout is a number of seconds, more than 0, not '5'"),
    ({"timeout": True}, "timeout is a number of seconds, more than 0, not True"),
    ({"on_poison": ["dead"]}, r"on_poison is 'dead' or 'block', not ['dead']"),
    ({"start": 1.5}, "start is 'now', 'beginning', a datetime with a time zone, or a position, 0 or more, not 1.5"),
    ({"start": None}, "start is 'now', 'beginning', a datetime with a time zone, or a position, 0 or more, not None"),
]


@pytest.mark.parametrize(("options", "said"), LISTENER, ids=str)
def test_wrong_options_of_a_listener_are_refused(bus: pgbus.Bus, options: dict[str, Any], said: str) -> None:
    with pytest.raises(pgbus.ConfigurationError) as refused:
        bus.listener("a.b", **{"name": "mail", **options})(handle)
    assert str(refused.value) == f"listener 'mail': {said}"
    with pytest.raises(pgbus.ConfigurationError) as refused:
        bus.a.b.listen(handle, listener_name="mail", bus_options=options)
    assert str(refused.value) == f"listener 'mail': {said}"


@pytest.mark.parametrize("name", [5, "", b"mail"])
def test_wrong_names_of_a_listener_are_refused(bus: pgbus.Bus, name: Any) -> None:
    with pytest.raises(pgbus.ConfigurationError, match="name is a string of 1 to 255 characters, not"):
        bus.listener("a.b", name=name)(handle)
    with pytest.raises(pgbus.ConfigurationError, match="listener_name is a string of 1 to 255 characters, not"):
        bus.a.b.listen(handle, listener_name=name)


def test_a_wrong_batch_of_a_listener_is_refused(bus: pgbus.Bus) -> None:
    with pytest.raises(pgbus.ConfigurationError, match="batch is True or False, not 'yes'"):
        bus.listener("a.b", name="mail", batch="yes")(handle)  # type: ignore[call-overload]


@pytest.mark.parametrize("options", ["x", 7, ["key"], {"key"}])
async def test_bus_options_are_a_mapping(bus: pgbus.Bus, options: Any) -> None:
    with pytest.raises(pgbus.ConfigurationError, match="options are a mapping of names to values, not"):
        bus.a.b.listen(handle, bus_options=options)
    with pytest.raises(pgbus.ConfigurationError, match="options are a mapping of names to values, not"):
        await bus.a.b.fire_async(bus_options=options)
    with pytest.raises(pgbus.ConfigurationError, match="options are a mapping of names to values, not"):
        await bus.a.b.call_async(bus_options=options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"concurrency": "3"}, "concurrency is a whole number of calls, at least 1, not '3'"),
        ({"timeout": "3"}, "timeout is a number of seconds, more than 0, not '3'"),
    ],
)
def test_wrong_options_of_a_procedure_are_refused(bus: pgbus.Bus, options: dict[str, Any], said: str) -> None:
    with pytest.raises(pgbus.ConfigurationError) as refused:
        bus.procedure("a.b", **options)(lambda: None)
    assert str(refused.value) == f"procedure 'a.b': {said}"


def test_wrong_names_of_a_procedure_are_refused(bus: pgbus.Bus) -> None:
    with pytest.raises(pgbus.ConfigurationError, match=r"name it by a string, .* and not 7"):
        bus.procedure(7)  # type: ignore[arg-type] # that is the point


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timeout": "3"}, "a.b: timeout is a number of seconds, more than 0 and at most 86400, not '3'"),
        ({"wait": "yes"}, "a.b: wait is True or False, not 'yes'"),
    ],
)
async def test_wrong_options_of_a_call_are_refused(bus: pgbus.Bus, options: dict[str, Any], said: str) -> None:
    with pytest.raises(pgbus.ConfigurationError) as refused:
        await bus.call("a.b", **options)
    assert str(refused.value) == said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": 5}, "a schedule: name is a string of 1 to 255 characters, not 5"),
        ({"name": ""}, "a schedule: name is a string of 1 to 255 characters, not ''"),
        ({"also_run_immediately": "no"}, "schedule 'tick': also_run_immediately is True or False, not 'no'"),
        ({"missed": 3}, "missed is 'once', 'skip' or 'all', not 3"),
        ({"seconds": "5"}, "an interval is numbers of its units"),
    ],
)
def test_wrong_options_of_a_schedule_are_refused(bus: pgbus.Bus, options: dict[str, Any], said: str) -> None:
    with pytest.raises(pgbus.InvalidSchedule) as refused:
        bus.client.every(**{"hours": 1, "name": "tick", **options})(lambda: None)
    assert said in str(refused.value)


def test_of_a_schedules_time_zone(bus: pgbus.Bus) -> None:
    with pytest.raises(pgbus.InvalidSchedule, match="timezone is a string of 1 to 255 characters, not 5"):
        bus.client.schedule("@daily", timezone=5)(lambda: None)  # type: ignore[arg-type] # that is the point


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_attempts": "3"}, "retry: max_attempts is a whole number of attempts, at least 1, not '3'"),
        ({"base_delay": None}, "retry: base_delay is a number of seconds, at least 0, not None"),
        ({"factor": 0.5}, "retry: factor is a number, at least 1, not 0.5"),
        ({"max_delay": "1"}, "retry: max_delay is a number of seconds, at least 0, not '1'"),
        ({"jitter": 2}, "retry: jitter is a number between 0 and 1, not 2"),
    ],
)
def test_wrong_values_of_a_retry_policy_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(pgbus.ConfigurationError) as refused:
        pgbus.RetryPolicy(**options)
    assert str(refused.value) == said
