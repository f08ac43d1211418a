"""The order of hooks, their parameters, and which functions are none."""

from __future__ import annotations

from typing import Any

import pytest

import pgbus
from tests.support.threads import in_thread


class Plugin:
    def __init__(self, calls: list[str]) -> None:
        self._calls = calls

    async def before_event_sent(self) -> None:
        self._calls.append("plugin")

    def after_event_sent(self, client: pgbus.BusClient) -> None:
        self._calls.append("plugin, after")


async def test_hooks_run_in_order_of_registration_before_or_after_the_plugins(
    bus: pgbus.Bus,
) -> None:
    calls: list[str] = []

    @bus.client.before_event_sent()
    def last() -> None:
        calls.append("last")

    bus.client.hook_registry.add_plugin(Plugin(calls))

    @bus.client.before_event_sent(before_plugins=True)
    async def first() -> None:
        calls.append("first")

    def second() -> None:
        calls.append("second")

    assert bus.client.before_event_sent(second, before_plugins=True) is second
    bus.client.before_event_sent(second)
    bus.client.after_event_sent(lambda: calls.append("last, after"))
    bus.client.after_event_sent(lambda: calls.append("first, after"), before_plugins=True)

    await bus.publish({}, topic="a.b")
    await in_thread(lambda: bus.publish_sync({}, topic="a.b"))

    before, after = ["first", "second", "plugin", "last"], ["first, after", "plugin, after", "last, after"]
    assert calls == [*before, *after, *before, *after]


async def test_a_hook_gets_what_it_has_parameters_for(bus: pgbus.Bus) -> None:
    given: list[dict[str, object]] = []

    def nothing() -> None:
        given.append({})

    async def message(event_message: pgbus.EventMessage) -> None:
        given.append({"event_message": event_message})

    def client(*, client: pgbus.BusClient, depth: int = 1) -> None:
        given.append({"client": client})

    def everything(event_message: pgbus.EventMessage, **rest: object) -> None:
        given.append({"event_message": event_message, **rest})

    for hook in (nothing, message, client, everything):
        bus.client.after_event_sent(hook)
    published = await bus.publish({}, topic="a.b")
    assert given == [
        {},
        {"event_message": published},
        {"client": bus.client},
        {"event_message": published, "client": bus.client},
    ]


def _generator() -> Any:
    yield


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        (3, "3 is not a function"),
        (lambda message: None, "a parameter 'message' that nothing is passed for.*client, event_message"),
        (lambda event_message, /: None, "a parameter 'event_message'"),
        (lambda rpc_message: None, "a parameter 'rpc_message'"),
        (_generator, "is a generator"),
    ],
)
async def test_what_cannot_be_called_as_a_hook_is_refused_when_it_is_registered(
    bus: pgbus.Bus, hook: Any, said: str
) -> None:
    with pytest.raises(pgbus.ConfigurationError, match=said):
        bus.client.before_event_sent(hook)
    with pytest.raises(pgbus.ConfigurationError, match=said):
        bus.client.before_event_sent()(hook)
