"""Declaring tasks: names, parameters, features."""

import asyncio
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

import pgbus
from pgbus.cli.run import Choice
from pgbus.config.features import check_features, read_features
from pgbus.errors import ConfigurationError
from pgbus.handlers.contexts import TaskContext
from pgbus.schedules.schedule import make_task

if TYPE_CHECKING:
    from datetime import tzinfo

CONTEXT = TaskContext("task", None, 1, None)  # type: ignore[arg-type]


def called_with(function: Callable[..., object]) -> object:
    return make_task(function, client="the client", bus="the bus").call(CONTEXT)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda: None, None),
        (lambda client: client, "the client"),
        (lambda bus_client: bus_client, "the client"),
        (lambda *args, **kwargs: (args, kwargs), ((), {})),
        (lambda x=1: x, 1),
        (lambda x=1, client=None: (x, client), (1, "the client")),
        (lambda x=1, *, client: (x, client), (1, "the client")),
        (functools.partial(lambda client, x: (client, x), x=2), ("the client", 2)),
        (lambda bus: bus, "the bus"),
        (lambda client, bus: (client, bus), ("the client", "the bus")),
        (lambda bus=7: bus, 7),
    ],
)
def test_a_task_gets_the_client_if_it_has_a_parameter_for_it(function: Callable[..., object], expected: object) -> None:
    assert called_with(function) == expected


def test_a_task_gets_the_context_by_annotation() -> None:
    def with_context(context: TaskContext) -> object:
        return context

    def with_both(run: TaskContext, client: pgbus.BusClient) -> object:
        return run, client

    def unresolved(client: object, run: "TaskContext", zone: "tzinfo | None" = None) -> object:
        return client, run, zone

    assert called_with(with_context) is CONTEXT
    assert called_with(with_both) == (CONTEXT, "the client")
    assert called_with(unresolved) == ("the client", CONTEXT, None)


def generator() -> Any:
    yield


@pytest.mark.parametrize(
    "function",
    [
        lambda client, other: None,
        lambda client, /: None,
        lambda *, other: None,
        generator,
        "no function",
    ],
)
def test_a_task_that_nobody_could_call_is_refused(function: Any) -> None:
    with pytest.raises(pgbus.InvalidSchedule):
        make_task(function, client=None, bus=None)


@pytest.fixture
def bus() -> pgbus.Bus:
    return pgbus.create("postgresql://nowhere/x")


def declared(bus: pgbus.Bus) -> dict[str, str]:
    return bus.registry.work().tasks


def nightly() -> None:
    pass


async def forever() -> None:
    await asyncio.Event().wait()


def test_a_schedule_is_named_after_its_function_and_service(bus: pgbus.Bus) -> None:
    assert bus.client.every(hours=1, minutes=30)(nightly) is nightly
    bus.client.schedule("@daily", timezone="Europe/Berlin", name="cleaning")(nightly)
    assert declared(bus) == {
        f"{__name__}.nightly": "every 5400 s",
        "cleaning": "0 0 * * * in Europe/Berlin",
    }
    shop = pgbus.create("postgresql://nowhere/x", service_name="shop")
    shop.client.every(weeks=1, name="cleaning")(nightly)
    assert declared(shop) == {"shop-cleaning": "every 604800 s"}


@pytest.mark.parametrize("name", ["", "x" * 256, "tasks", "a\x00b"])
def test_a_name_that_cannot_be_is_refused(bus: pgbus.Bus, name: str) -> None:
    with pytest.raises(pgbus.InvalidSchedule):
        bus.client.every(hours=1, name=name)(nightly)


def test_wrong_schedules_are_refused_when_they_are_declared(bus: pgbus.Bus) -> None:
    with pytest.raises(pgbus.InvalidSchedule, match="more than 0"):
        bus.client.every()
    with pytest.raises(pgbus.InvalidSchedule, match="hour must be 0 to 23, not 25"):
        bus.client.schedule("0 25 * * *")
    with pytest.raises(pgbus.InvalidSchedule, match="missed is"):
        bus.client.every(hours=1, missed="never")  # type: ignore[arg-type]
    with pytest.raises(pgbus.InvalidSchedule, match="interval has none"):
        bus.client.schedule(object(), timezone="UTC")
    with pytest.raises(ConfigurationError, match="a coroutine or a function"):
        bus.client.add_background_task(5)
    assert declared(bus) == {}


async def test_background_tasks_are_named_after_what_they_run(bus: pgbus.Bus) -> None:
    bus.client.add_background_task(forever)
    bus.client.add_background_task(forever())
    bus.client.add_background_task(asyncio.ensure_future(asyncio.sleep(0)))
    assert declared(bus) == dict.fromkeys([f"{__name__}.forever", "Task"], "in the background")
    bus.registry.schedules.close_background()


def test_tasks_are_selected_by_name_like_listeners(bus: pgbus.Bus) -> None:
    bus.listener("shop.sold", name="note")(lambda event: None)
    bus.client.every(hours=1, name="count")(nightly)
    bus.client.add_background_task(forever)
    assert bus.registry.work(only=["count"]).tasks == {"count": "every 3600 s"}
    without = bus.registry.work(skip=["count"])
    assert without.tasks == {f"{__name__}.forever": "in the background"}
    assert [one.name for one in without.listeners] == ["note"]
    with pytest.raises(ConfigurationError, match="declared are: note, count"):
        bus.registry.work(skip=["cuont"])


def test_a_listener_cannot_have_the_name_of_a_feature(bus: pgbus.Bus) -> None:
    with pytest.raises(ConfigurationError, match="name of a feature"):
        bus.listener("shop.sold", name="tasks")(lambda event: None)


def test_features_come_from_the_argument_or_the_setting_and_can_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """N11."""
    assert pgbus.create("postgresql://nowhere/x").features == {"events", "rpcs", "tasks"}
    monkeypatch.setenv("PGBUS_FEATURES", "tasks, events")
    assert pgbus.create("postgresql://nowhere/x").features == {"events", "tasks"}
    bus = pgbus.create("postgresql://nowhere/x", features=["rpcs"])
    assert bus.features == bus.client.features == {"rpcs"}
    bus.client.set_features(["events"])
    assert bus.features == {"events"}
    with pytest.raises(pgbus.UnsupportedUse, match="'evnets'"):
        bus.client.set_features(["evnets"])
    monkeypatch.setenv("PGBUS_FEATURES", "evnets")
    with pytest.raises(pgbus.UnsupportedUse, match=r"features \(PGBUS_FEATURES\): there is no feature 'evnets'"):
        pgbus.create("postgresql://nowhere/x")


def test_features_in_a_text_are_apart_by_commas() -> None:
    assert read_features(" events ,tasks,") == {"events", "tasks"}
    assert read_features("") == frozenset()
    assert check_features([]) == frozenset()


def test_only_and_skip_are_features_and_skip_is_names_too() -> None:
    choice = Choice.read(("events,tasks", "rpcs"), ("tasks", "note", "rpcs, tasks", "tasks,note"))
    assert choice.features == frozenset(["events", "tasks", "rpcs"])
    assert choice.without == {"tasks", "rpcs"}
    assert choice.skip == ("note", "tasks,note")
    bus = pgbus.create("postgresql://nowhere/x", features=["tasks"])
    choice.apply(bus)
    assert bus.features == {"events"}
    Choice.read((), ()).apply(bus)
    assert bus.features == {"events"}
    with pytest.raises(pgbus.UnsupportedUse):
        Choice.read(("evnets",), ())
