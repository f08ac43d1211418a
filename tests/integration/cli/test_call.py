"""`pgbus call`, with a worker that answers."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest

import pgbus
from pgbus.cli import exits
from tests.conftest import Connect
from tests.integration.conftest import Invoke
from tests.support import eventually
from tests.support.programs import talking
from tests.support.workers import open_bus, running


@pytest.fixture
async def bus(database: str) -> AsyncIterator[pgbus.Bus]:
    """A bus with a running worker."""
    async with open_bus(database) as opened:

        @opened.procedure("auth.check_password")
        async def check_password(username: str, password: str) -> bool:
            return (username, password) == ("admin", "secret")

        @opened.procedure("auth.echo")
        async def echo(**arguments: Any) -> Any:
            return arguments

        @opened.procedure("auth.fail")
        def fail() -> None:
            raise ValueError("no such user")

        @opened.procedure("auth.hang")
        async def hang() -> None:
            await asyncio.Event().wait()

        @opened.procedure("auth.lie")
        async def lie() -> int:
            return "no number"  # type: ignore[return-value]

        async with running(opened):
            yield opened


async def test_call_prints_the_result_as_json(invoke: Invoke, bus: pgbus.Bus) -> None:
    for password, answer in (("secret", "true"), ("wrong", "false")):
        result = await invoke("call", "auth.check_password", "--arg", "username=admin", "--arg", f"password={password}")
        assert (result.exit_code, result.stdout, result.stderr) == (0, f"{answer}\n", "")


async def test_the_value_of_an_argument_is_json_or_else_a_text(invoke: Invoke, bus: pgbus.Bus) -> None:
    meant = {
        "7": 7,
        "1.50": 1.5,
        "true": True,
        "null": None,
        '["a", 1]': ["a", 1],
        '"7"': "7",
        "7a": "7a",
        "": "",
        "x=y": "x=y",
        "grün": "grün",
        "NaN": "NaN",
    }
    given = {f"n{number}": text for number, text in enumerate(meant)}
    options = [option for name, text in given.items() for option in ("--arg", f"{name}={text}")]
    result = await invoke("call", "auth.echo", *options)
    assert json.loads(result.stdout) == {name: meant[text] for name, text in given.items()}


async def test_arguments_may_come_as_one_object_also_from_stdin(invoke: Invoke, bus: pgbus.Bus) -> None:
    result = await invoke("call", "auth.echo", '{"a": {"b": [1]}}', "--arg", "c=2")
    assert json.loads(result.stdout) == {"a": {"b": [1]}, "c": 2}
    result = await invoke("call", "auth.echo", '{"a": 1}', "--arg", "c=2")
    assert json.loads(result.stdout) == {"a": 1, "c": 2}
    result = await invoke("call", "auth.echo", "-", text='{"a": 1}')
    assert json.loads(result.stdout) == {"a": 1}


async def test_the_file_that_is_named_configures_the_call(
    invoke: Invoke, bus: pgbus.Bus, database: str, tmp_path: Path
) -> None:
    (tmp_path / "short.toml").write_text(f'dsn = "{database}"\nrpc_timeout = 0.3\n')
    result = await invoke("call", "auth.hang", "--config", "short.toml", dsn=None)
    assert result.exit_code == exits.TIMEOUT
    assert "0.3" in result.stderr


async def test_a_large_result_arrives_whole(invoke: Invoke, bus: pgbus.Bus) -> None:
    text = "x" * 3_000_000
    result = await invoke("call", "auth.echo", "-", text=json.dumps({"it": text}))
    assert json.loads(result.stdout) == {"it": text}


REASONS: list[tuple[tuple[str, ...], int, str]] = [
    (("auth.check_password",), exits.USAGE, "pgbus: the arguments .*auth.check_password.*username"),
    (("auth.check_password", "--arg", "username=1", "--arg", "password=a"), exits.USAGE, "pgbus: the arguments "),
    (
        ("auth.nothing",),
        exits.UNSERVED,
        "pgbus: auth.nothing: no live worker serves it, and no service .*API 'auth' has",
    ),
    (("auth.ecko",), exits.UNSERVED, ".*procedure of that name: did you mean 'auth.echo'"),
    (
        ("auth.nothing", "--wait", "--timeout", "0.2"),
        exits.TIMEOUT,
        "pgbus: auth.nothing: no response within 0.2 s",
    ),
    (("auth.hang", "--timeout", "0.2"), exits.TIMEOUT, "pgbus: auth.hang: no response within 0.2 seconds"),
    (("auth.fail",), exits.REMOTE, "pgbus: auth.fail raised builtins.ValueError: no such user"),
    (("auth.lie",), exits.FAILED, "pgbus: .*auth.lie"),
    (("nothing",), exits.USAGE, "pgbus: procedure 'nothing': name it by its API and itself"),
    (("auth.echo", "[1]"), exits.USAGE, ".*arguments are one object"),
    (("auth.echo", "{"), exits.USAGE, ".*not JSON"),
    (("auth.echo", "--arg", "a"), exits.USAGE, ".*'a' is not NAME=VALUE"),
    (("auth.echo", "--arg", "a=1", "--arg", "a=2"), exits.USAGE, ".*'a' is given twice"),
    (("auth.echo", "--timeout", "0"), exits.USAGE, ".*timeout"),
]


async def test_a_call_without_a_result_has_an_exit_code_for_each_reason(invoke: Invoke, bus: pgbus.Bus) -> None:
    for arguments, code, message in REASONS:
        result = await invoke("call", *arguments)
        assert (result.exit_code, result.stdout) == (code, ""), (arguments, result.output)
        assert re.search(message, result.stderr, re.DOTALL), (arguments, result.stderr)


async def test_a_remote_error_shows_where_the_procedure_failed(invoke: Invoke, bus: pgbus.Bus) -> None:
    result = await invoke("call", "auth.fail")
    assert result.stderr.startswith("Traceback (most recent call last):\n")
    assert 'raise ValueError("no such user")' in result.stderr
    assert result.stderr.splitlines()[-1].startswith("pgbus: auth.fail raised builtins.ValueError: no such user")


async def test_a_call_that_waits_is_answered_by_a_worker_that_comes_later(
    invoke: Invoke, database: str, connect: Connect
) -> None:
    async with open_bus(database) as late:

        @late.procedure("late.answer")
        async def answer() -> int:
            return 42

        async def is_posted() -> bool:
            return bool(await watcher.fetchval("SELECT count(*) FROM pgbus.rpc_calls"))

        watcher = await connect(database)
        asked = asyncio.create_task(invoke("call", "late.answer", "--wait", "--timeout", "60"))
        await eventually(is_posted)
        async with running(late):
            assert (await asked).stdout == "42\n"


async def test_ctrl_c_takes_the_call_back(bus: pgbus.Bus, database: str, tmp_path: Path, connect: Connect) -> None:
    watcher = await connect(database)

    def count(state: str) -> Awaitable[int]:
        return watcher.fetchval("SELECT count(*) FROM pgbus.rpc_calls WHERE state = $1", state)

    environ = {"PGBUS_DSN": database}
    async with talking("call", "auth.hang", "--timeout", "600", cwd=tmp_path, environ=environ) as caller:
        await eventually(lambda: count("running"))
        caller.child.send_signal(signal.SIGINT)
        assert await caller.ends() == exits.FAILED
    await eventually(lambda: count("cancelled"))
