import asyncio
from typing import Any

import pytest

import pgbus
from pgbus.cli.prompt import Completion, describe, run_script


class UserApi(pgbus.Api):
    created = pgbus.Event(parameters=("name",))
    closed = pgbus.Event(parameters=("name",))

    class Meta:
        name = "my.user"

    def greet(self, name: str) -> str:
        return f"hello {name}"


@pytest.fixture
def bus() -> pgbus.Bus:
    made = pgbus.create()
    made.client.register_api(UserApi())
    return made


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bus.m", ["bus.middleware", "bus.my"]),
        ("bus.my.", ["bus.my.store", "bus.my.user"]),
        ("bus.my.user.", ["bus.my.user.closed", "bus.my.user.created", "bus.my.user.greet"]),
        ("bus.my.user.c", ["bus.my.user.closed", "bus.my.user.created"]),
        ("bus.my.user.created.fi", ["bus.my.user.created.fire", "bus.my.user.created.fire_async"]),
        ("bus.my.store.", ["bus.my.store.sold"]),
        ("bus.my.store.sold.cal", ["bus.my.store.sold.call", "bus.my.store.sold.call_async"]),
        ("bus.nobody.knows.fi", ["bus.nobody.knows.fire", "bus.nobody.knows.fire_async"]),
        ("bus.my.user.x", []),
        ("bus", []),
        ("other.m", []),
        ("number.real", []),
        ("", []),
    ],
)
def test_a_path_is_completed_word_by_word(bus: pgbus.Bus, text: str, expected: list[str]) -> None:
    complete = Completion({"bus": bus, "number": 1}, ["my.store.sold", "my.user.greet"])
    assert complete(text) == expected


def test_private_names_are_shown_when_they_are_asked_for(bus: pgbus.Bus) -> None:
    complete = Completion({"bus": bus}, [])
    assert not [text for text in complete("bus.") if text.startswith("bus._")]
    assert "bus.__class__" in complete("bus.__")


def test_a_script_may_await_in_one_statement_and_block_in_the_next() -> None:
    seen: list[str] = []

    def block() -> None:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        seen.append("blocked")

    async def wait() -> str:
        await asyncio.to_thread(seen.append, "waited")
        return "result"

    names: dict[str, Any] = {"block": block, "wait": wait}
    with asyncio.Runner() as runner:
        run_script("block()\nx = await wait()\nblock()\nawait wait()", names, runner)
    assert seen == ["blocked", "waited", "blocked", "waited"]
    assert names["x"] == "result"


def test_an_error_is_told_with_what_the_worker_said() -> None:
    error = pgbus.RemoteError("a.b raised ValueError: no", remote_traceback="Traceback: there\n")
    assert describe(error) == "Traceback: there\n\nRemoteError: a.b raised ValueError: no\n"
    assert describe(pgbus.NoWorkerAvailable("a.b: none")) == "NoWorkerAvailable: a.b: none\n"
