"""`pgbus inspect`: every filter, format and exit code."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from click.testing import Result

import pgbus
from pgbus.admin import Admin, CallFilter, Names
from pgbus.config import Config
from pgbus.database import sql
from pgbus.database.statements.inspection import parameters
from tests.conftest import Connect
from tests.examples.documents import outline, shown
from tests.integration.conftest import Invoke
from tests.support import ROOT
from tests.support.programs import talking
from tests.support.rows import Rows
from tests.support.workers import open_bus, running

NOON = datetime(2025, 1, 31, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
async def log(rows: Rows) -> list[UUID]:
    """Events of some APIs and versions, the first at position 1; their ids."""
    events: list[tuple[str, int, Any]] = [
        ("auth.user_registered", 1, {"email": "joe@example.com", "age": 9, "address": {"city": "London"}}),
        ("auth.user_registered", 2, {"email": "eve@example.com", "age": 18, "address": {"city": "Köln"}}),
        ("auth.user_deleted", 2, {"email": "joe@example.com", "age": "18"}),
        ("my.first.seen", 1, {"n": 10}),
        ("my.second.seen", 3, {"n": 9.5}),
        ("my.second.left", 3, {"n": -1, "tags": ["a", "b"]}),
        ("internal.state.worker_started", 1, {"n": 1}),
        ("plain", 1, [1, 2]),
    ]
    return [
        await rows.event(
            position,
            topic,
            payload,
            headers={"api_version": str(version)} if version > 1 else None,
            logged_at=NOON + position * HOUR,
        )
        for position, (topic, version, payload) in enumerate(events, 1)
    ]


def found(result: Result) -> list[int]:
    """The positions of the events that it printed."""
    assert result.exit_code in (0, 1), result.output
    positions = [int(json.loads(line)["native_id"]) for line in result.stdout.splitlines()]
    assert bool(positions) == (result.exit_code == 0)
    return positions


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", [8, 6, 5, 4, 3, 2, 1]),
        ("--api auth", [3, 2, 1]),
        ("-a my.*", [6, 5, 4]),
        ("-a my", []),
        ("-a my.first -a auth", [4, 3, 2, 1]),
        ("--event seen", [5, 4]),
        ("-e user_*", [3, 2, 1]),
        ("-e *_d* -e left", [6, 3]),
        ("-a my.* -e seen", [5, 4]),
        ("-a auth -e seen", []),
        ("--native-id 4", [4]),
        ("-n 99", []),
        ("-n 1 -a my.*", []),
        ("--version 1", [8, 4, 1]),
        ("-v >=2", [6, 5, 3, 2]),
        ("-v >1 -v <3", [3, 2]),
        ("-v !=1 -a my.*", [6, 5]),
        ("-v <=1", [8, 4, 1]),
        ("-v =3", [6, 5]),
        ("--json-path email=joe@example.com", [3, 1]),
        ("-j address.city=London", [1]),
        ("-j $.address.city=London", [1]),
        ("-j address.city!=London", [2]),
        ("-j age=18", [2]),
        ("-j age<18", [1]),
        ("-j age<=18", [2, 1]),
        ("-j age>9", [2]),
        ("-j age>=9 -j email!=eve@example.com", [1]),
        ("-j n>9", [5, 4]),
        ("-j n<0", [6]),
        ("-j n=10.0", [4]),
        ("-j tags=b", [6]),
        ("-j nowhere=1", []),
        ("--since 2025-01-31T15:00", [8, 6, 5, 4, 3]),
        ("--until 2025-01-31T15:00", [2, 1]),
        ("--since 2025-01-31T15:00 --until 2025-01-31T17:00+01:00", [3]),
        ("--limit 2", [8, 6]),
        ("--internal --limit 2", [8, 7]),
        ("-I -a internal.*", [7]),
        ("-a internal.*", []),
    ],
)
async def test_every_filter_of_events(invoke: Invoke, log: list[UUID], arguments: str, expected: list[int]) -> None:
    assert found(await invoke("inspect", *arguments.split())) == expected


async def test_an_event_is_found_by_its_id(invoke: Invoke, log: list[UUID]) -> None:
    assert found(await invoke("inspect", "--id", str(log[4]))) == [5]
    assert found(await invoke("inspect", "-i", str(log[4]), "-a", "auth")) == []


async def test_a_version_that_is_no_number_counts_as_the_first(invoke: Invoke, rows: Rows) -> None:
    await rows.event(1, "a.b", headers={"api_version": "two"})
    await rows.event(2, "a.b", headers={"api_version": "9" * 40})
    assert found(await invoke("inspect", "-v", "1")) == [2, 1]


async def test_a_word_in_a_wildcard_is_no_regular_expression(invoke: Invoke, rows: Rows) -> None:
    await rows.event(1, "a-b.c")
    await rows.event(2, "a.b.c")
    assert found(await invoke("inspect", "-a", "a.b")) == [2]
    assert found(await invoke("inspect", "-a", "a-?")) == [1]
    assert found(await invoke("inspect", "-a", "(a|b).*")) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--version", "x"),
        ("--version", ">="),
        ("--version", "1.5"),
        ("--version", "=>1"),
        ("--json-path", "age"),
        ("--json-path", "age=>1x", "--version", "true"),
        ("--id", "7"),
        ("--native-id", "first"),
        ("--format", "xml"),
        ("--calls", "--native-id", "0"),
        ("--calls", "--version", "1"),
        ("--calls", "--dead"),
        ("--calls", "--validate"),
        ("--calls", "--follow"),
        ("--calls", "--owed-to", "ship"),
        ("something",),
    ],
)
async def test_wrong_usage_is_exit_code_2(invoke: Invoke, arguments: tuple[str, ...]) -> None:
    result = await invoke("inspect", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")


async def test_nothing_found_is_exit_code_1_and_a_word_on_stderr(invoke: Invoke) -> None:
    for arguments, said in ((("inspect",), "no events\n"), (("inspect", "--calls"), "no calls\n")):
        result = await invoke(*arguments)
        assert (result.exit_code, result.stdout, result.stderr) == (1, "", said)


async def test_json_tells_where_the_event_stands_with_each_listener(invoke: Invoke, rows: Rows) -> None:
    event_id = await rows.event(1, "orders.placed", {"n": 1}, key="adam", headers={"api_version": "2"})
    await rows.attempt(await rows.listener("done"), 1)
    failed = await rows.listener("failed")
    await rows.attempt(failed, 1, "dead", error="ValueError: no")
    letter_id = await rows.dead_letter(failed, 1)
    again = await rows.listener("again")
    await rows.attempt(again, 1, "retry", error="ValueError: not yet")
    await rows.delivery(again, 1, attempt=2)
    await rows.listener("behind", "orders.*", cursor=1)
    [event] = [json.loads(line) for line in (await invoke("inspect", "-i", str(event_id))).stdout.splitlines()]
    assert {
        name: event[name] for name in ("id", "native_id", "api_name", "event_name", "version", "kwargs", "key")
    } == {
        "id": str(event_id),
        "native_id": "1",
        "api_name": "orders",
        "event_name": "placed",
        "version": 2,
        "kwargs": {"n": 1},
        "key": "adam",
    }
    assert event["states"] == {"done": "done", "failed": "dead", "again": "retrying", "behind": "behind"}
    assert [(one["listener_name"], one["outcome"]) for one in event["attempts"]] == [
        ("done", "done"),
        ("failed", "dead"),
        ("again", "retry"),
    ]
    assert event["given_up"] == [{"listener_name": "failed", "dead_letter": letter_id}]


async def test_events_are_found_by_a_listener_that_owes_them_and_by_dead_letters(invoke: Invoke, rows: Rows) -> None:
    for position in range(1, 5):
        await rows.event(position)
    ship = await rows.listener("ship")
    await rows.delivery(ship, 2, 3)
    await rows.dead_letter(ship, 4)
    await rows.dead_letter(await rows.listener("mail"), 1)
    assert found(await invoke("inspect", "--owed-to", "ship")) == [3, 2]
    assert found(await invoke("inspect", "--dead")) == [4, 1]
    result = await invoke("inspect", "--owed-to", "shop")
    assert (result.exit_code, result.stderr) == (1, "pgbus: there is no listener 'shop'; did you mean 'ship'?\n")


async def test_the_formats_are_lines_of_json_indented_json_and_text(invoke: Invoke, rows: Rows) -> None:
    await rows.event(1, "auth.user_registered", {"email": "joe@example.com", "address": {"city": "Köln"}}, key="joe")
    await rows.event(2, "auth.user_registered", [1])
    await rows.attempt(await rows.listener("welcome"), 1, "retry", error="ValueError: no\nmore")
    lines = (await invoke("inspect", "--format", "json")).stdout.splitlines()
    assert [json.loads(line)["kwargs"] for line in lines] == [
        [1],
        {"email": "joe@example.com", "address": {"city": "Köln"}},
    ]
    pretty = (await invoke("inspect", "-F", "pretty", "-n", "1")).stdout
    assert json.loads(pretty) == json.loads(lines[1])
    assert '\n  "kwargs": {\n    "email": "joe@example.com",\n' in pretty
    human = [line.rstrip() for line in (await invoke("inspect", "-F", "human")).stdout.splitlines()]
    assert re.fullmatch(r"auth\.user_registered  \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ  version 1", human[0])
    assert human[2] == "    [1]"
    assert re.fullmatch(r"    id [0-9a-f-]{36}  native id 1  key joe", human[4])
    assert human[5:7] == ['    email    "joe@example.com"', '    address  {"city": "Köln"}']
    assert re.fullmatch(r"    welcome  retry, attempt 1, .*Z, 250 ms, worker-1, ValueError: no", human[7])


async def test_text_is_as_the_page_shows_it(invoke: Invoke, rows: Rows) -> None:
    payload = {"email": "joe@example.com", "username": "joe"}
    await rows.event(1, "auth.user_registered", payload, headers={"api_version": "2"})
    welcome, audit = await rows.listener("welcome"), await rows.listener("audit")
    error = "ValueError: no such mailbox"
    await rows.attempt(welcome, 1, "retry", error=error)
    await rows.attempt(audit, 1)
    await rows.attempt(welcome, 1, "dead", attempt=2, error=error)
    await rows.dead_letter(welcome, 1, error=error)
    human = (await invoke("inspect", "-F", "human")).stdout.splitlines()
    page = shown(ROOT / "docs" / "how-to" / "inspect-the-history.md", "auth.user_registered  2026")
    assert [*map(outline, human)] == [*map(outline, page)]


async def test_text_fits_into_a_narrow_terminal(invoke: Invoke, rows: Rows) -> None:
    await rows.event(1, payload={"text": "x" * 50 + " " + "y" * 50, "long": "z" * 300})
    await rows.attempt(await rows.listener("welcome"), 1, "retry", error="ValueError: " + "no " * 40)
    result = await invoke("inspect", "-F", "human", columns=80)
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert max(map(len, lines)) <= 80
    assert all(line.startswith("    ") for line in lines[1:])


async def test_follow_shows_the_events_of_any_number_of_apis_as_they_come(
    database: str, rows: Rows, working_directory: Any
) -> None:
    await rows.event(1, "auth.before")
    arguments = ("inspect", "--follow", "-a", "auth", "-a", "my.*", "-j", "n>=10")
    async with talking(*arguments, cwd=working_directory, environ={"PGBUS_DSN": database}) as follower:
        position = 1
        while not follower.out:  # until it has read the log's head, it may miss what comes
            position += 1
            await rows.event(position, "auth.seen", {"n": 10})
            await asyncio.wait({asyncio.ensure_future(follower.child.wait())}, timeout=0.05)
        for topic, n in (("my.api.seen", 9), ("other.seen", 10), ("my.api.seen", 11)):
            position += 1
            await rows.event(position, topic, {"n": n})
        last = position
        await follower.says(f'"native_id":"{last}"')
        shown = [json.loads(line) for line in follower.out]
        assert {one["api_name"] for one in shown} == {"auth", "my.api"}
        assert [one["kwargs"]["n"] for one in shown if one["api_name"] == "my.api"] == [11]
        assert "before" not in {one["event_name"] for one in shown}


async def test_a_bus_module_that_is_not_there_is_exit_code_1(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGBUS_MODULE", "bus")  # which the command changes, for this process too
    for arguments in (("--bus", "nowhere"), ("--show-casting", "-b", "nowhere")):
        result = await invoke("inspect", *arguments)
        assert result.exit_code == 1
        assert result.stderr.startswith("pgbus: there is no module 'nowhere' in ")


# -------------------------------------------------------------------------------------------------------------- calls


@pytest.fixture
async def calls(database: str) -> dict[str, UUID]:
    """Calls that ended in some ways; their ids by procedure."""
    async with open_bus(database, process_name="tester") as bus:

        @bus.procedure("auth.check")
        async def check(username: str) -> bool:
            return username == "admin"

        @bus.procedure("auth.fail")
        async def fail(code: int) -> None:
            raise ValueError("no")

        @bus.procedure("store.total")
        async def total(address: dict[str, str]) -> float:
            return 1.5

        async with running(bus):
            await bus.call("auth.check", {"username": "admin"})
            with pytest.raises(pgbus.RemoteError):
                await bus.call("auth.fail", {"code": 7})
            await bus.call("store.total", {"address": {"city": "London"}})
    async with Admin.connect(Config(dsn=database)) as admin:
        return {call.procedure: call.call_id for call in await admin.find_calls()}


def called(result: Result) -> list[str]:
    assert result.exit_code in (0, 1), result.output
    shown = [json.loads(line) for line in result.stdout.splitlines()]
    return [f"{one['api_name']}.{one['procedure_name']}" for one in shown]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", ["store.total", "auth.fail", "auth.check"]),
        ("-a auth", ["auth.fail", "auth.check"]),
        ("-a *o*", ["store.total"]),
        ("-e check", ["auth.check"]),
        ("-j username=admin", ["auth.check"]),
        ("-j code>=7", ["auth.fail"]),
        ("-j address.city=London", ["store.total"]),
        ("--limit 1", ["store.total"]),
        ("--since 1h", ["store.total", "auth.fail", "auth.check"]),
        ("--until 1h", []),
        ("-I -a internal.*", []),
    ],
)
async def test_calls_are_found_by_the_same_filters(
    invoke: Invoke, calls: dict[str, UUID], arguments: str, expected: list[str]
) -> None:
    assert called(await invoke("inspect", "--calls", *arguments.split())) == expected


async def test_a_call_is_found_by_its_id_and_shown_whole(invoke: Invoke, calls: dict[str, UUID]) -> None:
    result = await invoke("inspect", "--calls", "-i", str(calls["auth.fail"]))
    shown = json.loads(result.stdout)
    assert (shown["state"], shown["kwargs"], shown["result"]) == ("failed", {"code": 7}, None)
    assert (shown["error_type"], shown["error"]) == ("builtins.ValueError", "no")
    assert 'raise ValueError("no")' in shown["traceback"]
    assert (shown["caller"], shown["worker"]) == ("tester", "tester")
    assert shown["duration"] >= 0
    result = await invoke("inspect", "--calls", "-i", str(calls["store.total"]))
    assert json.loads(result.stdout)["result"] == 1.5


async def test_calls_are_shown_as_text(invoke: Invoke, calls: dict[str, UUID]) -> None:
    text = (await invoke("inspect", "--calls", "-F", "human")).stdout
    lines = [line.rstrip() for line in text.splitlines()]
    assert re.fullmatch(r"store\.total  .*Z  answered", lines[0])
    assert re.fullmatch(r"    called by tester, served by tester in \S+ (µ|m)?s", lines[2])
    assert lines[3:5] == ['    address  {"city":"London"}', "    result 1.5"]
    assert "    builtins.ValueError: no" in lines


async def test_finding_calls_reads_an_index(database: str, connect: Connect) -> None:
    connection = await connect(database)
    await connection.execute(
        """
        INSERT INTO pgbus.rpc_requests (call_id, procedure, arguments, caller, caller_name, deadline)
        SELECT pgbus.uuid7(), 'a.b', '{}', 'x', 'x', now() FROM generate_series(1, 20000)
        """
    )
    await connection.execute("ANALYZE pgbus.rpc_requests")
    statement = sql.load()["find_calls"]
    for wanted in (CallFilter(), CallFilter(names=Names(apis=("a",))), CallFilter(call_id=UUID(int=7))):
        values = statement.arguments({**parameters(wanted.criteria()), "limit": 20})
        plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {statement.asyncpg}", *values))
        assert plan.count("rpc_requests_pkey") == 2
        assert "Seq Scan on rpc_requests" not in plan
