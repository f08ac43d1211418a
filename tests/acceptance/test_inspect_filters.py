"""`pgbus inspect` on what a real service did: S16, and N16, every filter of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pgbus.cli.program import pgbus as command
from tests.support.programs import talking
from tests.support.services import Services

SERVICE = """
from dataclasses import dataclass

import pgbus
from pgbus import Api, Event, Parameter

bus = pgbus.create(service_name="crm")


@dataclass
class Address:
    city: str


class CustomerApi(Api):
    registered = Event(parameters=(
        Parameter("email", str), Parameter("age", int), Parameter("address", Address, default=None),
    ))
    left = Event(parameters=("email",))

    class Meta:
        name = "crm.customer"
        version = 2

    def count(self, city: str) -> int:
        return len(city)


class InvoiceApi(Api):
    sent = Event(parameters=("email", "total"))

    class Meta:
        name = "crm.invoice"


class AuditApi(Api):
    noted = Event(parameters=("email",))

    class Meta:
        name = "audit"
        internal = True


for api in (CustomerApi(), InvoiceApi(), AuditApi()):
    bus.client.register_api(api)


def welcome(event, email: str, age: float, address: Address | None):
    if age < 18:
        raise ValueError(f"{email} is too young")


def audit(event, **anything):
    pass


bus.crm.customer.registered.listen(welcome, listener_name="welcome", bus_options={"retry": 1})
bus.client.listen_for_events([("crm.customer", "*"), ("crm.invoice", "sent")], audit, "audit")
"""

FIRE = """
import json
from bus import bus

events = [
    bus.crm.customer.registered.fire(email="joe@example.com", age=9, address={"city": "London"}),
    bus.crm.customer.registered.fire(email="eve@example.com", age=40, address={"city": "Berlin"}),
    bus.crm.customer.left.fire(email="joe@example.com"),
    bus.crm.invoice.sent.fire(email="eve@example.com", total=99.5),
    bus.audit.noted.fire(email="joe@example.com"),
]
bus.crm.customer.count(city="London")
print(json.dumps([event.id for event in events]))
"""


class History:
    """What the service did, and questions about it."""

    def __init__(self, services: Services, directory: Path, ids: list[str]) -> None:
        self.services = services
        self.directory = directory
        self.ids = ids

    def inspect(self, *arguments: str) -> list[dict[str, Any]]:
        """What it finds, as JSON; nothing is exit code 1."""
        done = self.services.command(self.directory, "inspect", *arguments)
        return _found(done.stdout, done.returncode, done.stderr)

    def look(self, *arguments: str) -> list[dict[str, Any]]:
        """The same, for what needs no bus: the command in this process."""
        done = CliRunner().invoke(command, ["inspect", *arguments], env={"PGBUS_DSN": self.services.dsn})
        return _found(done.stdout, done.exit_code, done.stderr)

    def human(self, *arguments: str) -> str:
        """What people are told, each line without the spaces at its end."""
        text = self.services.pgbus(self.directory, "inspect", "--format", "human", *arguments)
        return "\n".join(line.rstrip() for line in text.splitlines())

    def names(self, *arguments: str) -> list[str]:
        """Which events it finds, newest first, by the number of their firing and by name."""
        return self._names(self.look(*arguments))

    def names_by_its_bus(self, *arguments: str) -> list[str]:
        """The same, told by the service's own bus."""
        return self._names(self.inspect("--bus", "bus", *arguments))

    def _names(self, found: list[dict[str, Any]]) -> list[str]:
        return [f"{self.ids.index(one['id'])} {one['event_name']}" for one in found]


def _found(output: str, code: int, error: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in output.splitlines()]
    assert code == (0 if found else 1), error
    return found


@pytest.fixture
async def history(services: Services) -> AsyncIterator[History]:
    directory = services.write("crm", SERVICE, fire=FIRE)
    async with services.worker(directory):
        ids = json.loads(services.run(directory, "fire.py"))
        await services.settled()
        yield History(services, directory, ids)


EVERYTHING = ["4 noted", "3 sent", "2 left", "1 registered", "0 registered"]


async def test_the_history_is_found_by_every_filter_and_shown(history: History) -> None:
    """S16, N16"""
    await asyncio.to_thread(check_filters, history)
    await asyncio.to_thread(check_what_is_shown, history)


def check_filters(history: History) -> None:
    assert history.names() == EVERYTHING
    assert history.names("--id", history.ids[1]) == ["1 registered"]
    [event] = history.look("--id", history.ids[1])
    assert history.names("--native-id", event["native_id"]) == ["1 registered"]
    assert history.names("--event", "registered") == ["1 registered", "0 registered"]
    assert history.names("--event", "re*", "-e", "l?ft") == ["2 left", "1 registered", "0 registered"]
    assert history.names("--api", "crm.invoice") == ["3 sent"]
    assert history.names("--api", "crm.*") == EVERYTHING[1:]
    assert history.names("-a", "crm.*", "-e", "s*") == ["3 sent"]
    assert history.names("-j", "email=joe@example.com") == ["4 noted", "2 left", "0 registered"]
    assert history.names("-j", "address.city=London") == ["0 registered"]
    assert history.names("-j", "age>=9", "-j", "age<40") == ["0 registered"]
    assert history.names("-j", "age=40") == history.names("-j", "age!=9") == ["1 registered"]
    assert history.names("-j", "total<=99.5") == ["3 sent"]
    assert history.names("-j", "total>100") == []
    assert history.names("--version", "2") == ["2 left", "1 registered", "0 registered"]
    assert history.names("--version", ">=1") == EVERYTHING
    assert history.names("--version", "<2") == ["4 noted", "3 sent"]
    assert history.names("--since", "1h", "--limit", "1") == ["4 noted"]
    assert history.names("--until", "1h") == []
    assert history.names("--dead") == ["0 registered"]
    # An internal API of the bus is left out unless it is asked for.
    assert history.names_by_its_bus() == EVERYTHING[1:]
    assert history.names_by_its_bus("--internal") == EVERYTHING
    [call] = history.look("--calls", "--api", "crm.*", "-e", "count", "-j", "city=London")
    assert (call["state"], call["result"], call["kwargs"]) == ("answered", 6, {"city": "London"})


def check_what_is_shown(history: History) -> None:
    """People see where an event stands with each listener."""
    [event] = history.look("-i", history.ids[0])
    assert event["states"] == {"crm-welcome": "dead", "crm-audit": "done"}
    text = history.human("-i", history.ids[0])
    assert text.startswith("crm.customer.registered  ")
    assert '    email    "joe@example.com"\n' in text
    assert "ValueError: joe@example.com is too young" in text
    [letter] = event["given_up"]
    assert f"crm-welcome  given up, `pgbus dead show {letter['dead_letter']}`" in text


async def test_an_event_is_validated_against_the_schema_that_its_service_published(history: History) -> None:
    """N16"""
    for payload in ('{"email": "x", "age": "old"}', '{"email": "x"}'):
        history.services.pgbus(history.directory, "publish", "crm.customer.registered", payload)
    await history.services.settled()
    told = [one["validation"] for one in history.inspect("--validate", "-e", "registered")]
    assert [one["passed"] for one in told] == [False, False, True, True]
    assert "age" in told[0]["error"]
    assert '"old" is not of type "integer"' in told[1]["error"]
    assert "Validation   Passed" in history.human("-d", "-i", history.ids[0])
    history.services.pgbus(history.directory, "publish", "nobody.knows", "{}")
    assert "no schema is stored" in history.human("-d", "-a", "nobody")


async def test_casting_tells_what_each_listener_gets(history: History) -> None:
    """N16"""
    [event] = history.inspect("--show-casting", "-i", history.ids[0])
    casting = {one["listener_name"]: one for one in event["casting"]}
    assert [*casting] == ["crm-welcome", "crm-audit"]
    welcome = {one.pop("name"): tuple(one.values()) for one in casting["crm-welcome"]["arguments"]}
    assert welcome == {
        "email": ("str", "str", "str"),
        "age": ("int", "float", "float"),
        "address": ("dict", "bus.Address | None", "Address"),
    }
    assert {one["result"] for one in casting["crm-audit"]["arguments"]} == {"str", "int", "dict"}
    assert "age: int -> float -> float" in history.human("-C", "-i", history.ids[0])
    history.services.pgbus(history.directory, "publish", "crm.customer.registered", '{"email": 1, "age": "old"}')
    await history.services.settled()
    [event] = history.inspect("-C", "-b", "bus:bus", "--limit", "1")
    assert [one["result"] for one in event["casting"][0]["arguments"]] == [None, None]
    assert (
        "'age' does not fit" in event["casting"][0]["error"] or "'email' does not fit" in event["casting"][0]["error"]
    )


async def test_one_api_or_several_are_followed(history: History) -> None:
    """S16"""
    environ = history.services.environ
    arguments = ("inspect", "--follow", "-a", "crm.invoice", "-a", "a*", "-F", "json")
    async with talking(*arguments, cwd=history.directory, environ=environ) as follower:
        ids: list[str] = []
        while not follower.out:  # until it has read where the log ends, it may miss what comes
            ids += json.loads(await asyncio.to_thread(history.services.run, history.directory, "fire.py"))
        ids += json.loads(await asyncio.to_thread(history.services.run, history.directory, "fire.py"))
        await follower.says(ids[-1])
        seen = [json.loads(line) for line in follower.out]
        assert {one["api_name"] for one in seen} == {"crm.invoice", "audit"}
        assert {ids[-2], ids[-1]} <= {one["id"] for one in seen}
