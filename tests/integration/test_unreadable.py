"""Values that PostgreSQL stores and Python cannot take: refused where others write, survived where they are."""

from __future__ import annotations

import asyncio
import json
from uuid import uuid4

import asyncpg
import msgspec
import pytest

import pgbus
from tests.conftest import Connect
from tests.integration.conftest import Invoke
from tests.support import eventually
from tests.support.rows import Rows
from tests.support.workers import QUICK_RETRY, Inbox, open_bus, running

ODD_EVENTS = {
    "published for ever": "(topic, published_at) VALUES ('a.b', 'infinity')",
    "published before all times": "(topic, published_at) VALUES ('a.b', '-infinity')",
    "published in the year 200000": "(topic, published_at) VALUES ('a.b', '200000-01-01')",
    "published in 1 BC": "(topic, published_at) VALUES ('a.b', '0001-01-01 BC')",
    "never due": "(topic, deliver_at) VALUES ('a.b', 'infinity')",
    "due before all times": "(topic, deliver_at) VALUES ('a.b', '-infinity')",
    "due in the year 200000": "(topic, deliver_at) VALUES ('a.b', '200000-01-01')",
    "headers of numbers": """(topic, headers) VALUES ('a.b', '{"api_version": 1}')""",
    "headers of nothing": """(topic, headers) VALUES ('a.b', '{"a": null}')""",
    "headers of empty lists": """(topic, headers) VALUES ('a.b', '{"a": []}')""",
    "headers that are a list": """(topic, headers) VALUES ('a.b', '["api_version"]')""",
    "ancestors in a square": "(topic, ancestors) VALUES ('a.b', '{{a.c,a.d},{a.e,a.f}}')",
    "ancestors that are NULL": "(topic, ancestors) VALUES ('a.b', '{NULL}')",
}
LONG_INTEGER = '{"n": 1' + "0" * 5_000 + "}"
ODD_PAYLOADS = {
    "a number beyond floats": '{"n": 1e400}',
    "an integer of 5000 digits": LONG_INTEGER,
}
NESTED = '{"n": ' + "[" * 3_000 + "]" * 3_000 + "}"
"""About as deep as PostgreSQL stores it; from Python 3.12 on it can be read."""
try:
    msgspec.json.decode(NESTED)
except RecursionError:
    ODD_PAYLOADS["nesting beyond Python's"] = NESTED
ODD_CALLS = {
    "for ever": "(gen_random_uuid(), 'sums.add', '{}', 'x', 'x', 'infinity')",
    "until the year 200000": "(gen_random_uuid(), 'sums.add', '{}', 'x', 'x', '200000-01-01')",
    "for a month": "(gen_random_uuid(), 'sums.add', '{}', 'x', 'x', now() + interval '1 month')",
    "of a caller without a name": "(gen_random_uuid(), 'sums.add', '{}', '', 'x', now() + interval '1 hour')",
    "of a caller whose name is too long": f"(gen_random_uuid(), 'sums.add', '{{}}', '{60 * 'x'}', 'x', now())",
}
SHOWING = (
    "events", "events --json", "inspect", "inspect --format human", "inspect --format pretty", "dead list",
    "dead list --json", "dead show 1", "dead show 1 --json", "status", "status --json", "listeners list",
    "listeners list --json", "schedules list", "schedules list --json", "inspect --calls",
    "inspect --calls --format human",
)  # fmt: skip
JUNK = ("²", "9" * 5_000, "1" * 20, "-1", "٣", "", ",,,", "cancel ", "cancel x,²", "\u202e", " 1", "1,", "٣" * 32)
CALL_COLUMNS = "(call_id, procedure, arguments, caller, caller_name, deadline) VALUES"


@pytest.fixture
async def rows(owner: asyncpg.Connection) -> Rows:
    return Rows(owner)


@pytest.fixture
async def owner(database: str, connect: Connect) -> asyncpg.Connection:
    return await connect(database)


async def lift_constraints(owner: asyncpg.Connection) -> None:
    """As if the rows had been written before there were any."""
    checks = await owner.fetch(
        """
        SELECT CASE WHEN contypid = 0 THEN 'TABLE ' || conrelid::regclass ELSE 'DOMAIN ' || contypid::regtype END AS of,
               conname
        FROM pg_constraint
        WHERE contype = 'c' AND connamespace = 'pgbus'::regnamespace
          AND (contypid <> 0 OR conrelid::regclass::text IN ('pgbus.outbox', 'pgbus.rpc_requests', 'pgbus.schemas'))
        """
    )
    for of, name in checks:
        await owner.execute(f"ALTER {of} DROP CONSTRAINT {name}")


@pytest.mark.parametrize("odd", ODD_EVENTS.values(), ids=ODD_EVENTS)
async def test_an_odd_event_is_refused(owner: asyncpg.Connection, odd: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await owner.execute(f"INSERT INTO pgbus.outbox {odd}")


@pytest.mark.parametrize("odd", ODD_CALLS.values(), ids=ODD_CALLS)
async def test_an_odd_call_is_refused(owner: asyncpg.Connection, odd: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await owner.execute(f"INSERT INTO pgbus.rpc_requests {CALL_COLUMNS} {odd}")


async def test_the_ends_of_what_a_datetime_holds_are_taken(owner: asyncpg.Connection) -> None:
    for instant in ("0001-01-01 00:00:00+00", "9999-12-31 23:59:59.999999+00"):
        await owner.execute(
            "INSERT INTO pgbus.outbox (topic, published_at) VALUES ('a.b', $1::text::timestamptz)", instant
        )


async def test_odd_events_that_are_there_become_dead_letters_and_others_go_on(
    owner: asyncpg.Connection, database: str, invoke: Invoke
) -> None:
    await lift_constraints(owner)
    inbox: Inbox[int] = Inbox()
    async with open_bus(database) as bus:

        @bus.listener("a.b", name="mail", retry=QUICK_RETRY)
        async def handle(event: dict[str, int]) -> None:
            inbox.put(event.get("n", 0))

        async with running(bus):  # some come alone, and are handed over
            for odd in ODD_EVENTS.values():
                await owner.execute(f"INSERT INTO pgbus.outbox {odd}")
            for odd in ODD_PAYLOADS.values():
                await owner.execute("INSERT INTO pgbus.outbox (topic, payload) VALUES ('a.b', $1)", odd)
            await bus.publish({"n": 1}, topic="a.b")
            await inbox.until(lambda items: 1 in items)
            await eventually(lambda: is_settled(owner))
        async with running(bus):  # and all of them are in the log
            await owner.execute("UPDATE pgbus.listeners SET cursor = 0")
            await bus.publish({"n": 2}, topic="a.b")
            await inbox.until(lambda items: 2 in items)
            await eventually(lambda: is_settled(owner))

    dead = await owner.fetch("SELECT error FROM pgbus.dead_letters")
    assert all("UnhandledEventError" in row["error"] for row in dead)
    # Not: those that are due at once, before all times, and those that are never due; and 1e400, which fits an int.
    assert len(dead) == 2 * (len(ODD_EVENTS) - 3 + len(ODD_PAYLOADS) - 1)
    for command in ("status", "events --limit 100", "inspect --limit 100", "inspect --format human --limit 100",
                    "inspect --format pretty --limit 100", "inspect --validate --limit 100", "events a.c",
                    "events --owed-to mail", "dead list", "dead show 1", "listeners list"):  # fmt: skip
        for suffix in ("", " --json") if "inspect" not in command else ("",):
            result = await invoke(*f"{command}{suffix}".split())
            assert result.exit_code == 0, (command, result.output, result.exception)
    for letter in await owner.fetch("SELECT id FROM pgbus.dead_letters"):
        for form in ((), ("--json",)):
            assert (await invoke("dead", "show", str(letter["id"]), *form)).exit_code == 0


async def is_settled(owner: asyncpg.Connection) -> bool:
    waiting = (
        "SELECT EXISTS (SELECT FROM pgbus.deliveries) OR EXISTS (SELECT FROM pgbus.listeners WHERE cursor IS NOT NULL)"
    )
    return not await owner.fetchval(waiting)


async def test_hooks_are_not_called_with_an_event_that_they_could_not_read(
    owner: asyncpg.Connection, database: str
) -> None:
    await lift_constraints(owner)
    seen: Inbox[object] = Inbox()
    async with open_bus(database) as bus:

        @bus.client.before_event_execution
        async def look(event_message: pgbus.EventMessage) -> None:
            seen.put((event_message.payload, event_message.headers))

        @bus.listener("a.b", name="mail")
        async def handle(event: object) -> None: ...

        async with running(bus):
            await owner.execute("""INSERT INTO pgbus.outbox (topic, headers) VALUES ('a.b', '{"a": 1}')""")
            await owner.execute(
                "INSERT INTO pgbus.outbox (topic, payload) VALUES ('a.b', $1)",
                LONG_INTEGER,
            )
            await bus.publish({"n": 1}, topic="a.b")
            assert await seen.take(1) == [({"n": 1}, {})]
            await eventually(lambda: is_settled(owner))
    errors = await owner.fetch("SELECT attempts, error FROM pgbus.dead_letters ORDER BY id")
    assert [(row["attempts"], row["error"].split(":")[0]) for row in errors] == [(1, "UnhandledEventError")] * 2


async def test_odd_calls_that_are_there_end_and_others_are_answered(
    owner: asyncpg.Connection, database: str, invoke: Invoke
) -> None:
    await lift_constraints(owner)
    for odd in ODD_CALLS.values():
        await owner.execute(f"INSERT INTO pgbus.rpc_requests {CALL_COLUMNS} {odd}")
    for arguments in (r'{"a": "\u0000"}', r'{"a": "\ud800"}', '{\n"a":\n1}', "[" * 3000 + "]" * 3000):
        await owner.execute(
            f"INSERT INTO pgbus.rpc_requests {CALL_COLUMNS} "
            "(gen_random_uuid(), 'sums.add', $1, 'x', 'x', now() + interval '1 hour')",
            arguments,
        )
    async with open_bus(database) as bus:

        @bus.procedure("sums.add")
        async def add(a: int = 1, b: int = 2) -> int:
            return a + b

        async with running(bus):
            assert await bus.call("sums.add", {"a": 1, "b": 2}) == 3
            await eventually(lambda: owner.fetchval("SELECT count(*) = 10 FROM pgbus.rpc_responses"))
    for command in ("inspect --calls", "inspect --calls --format human", "inspect --calls --json-path a=1"):
        result = await invoke(*command.split())
        assert result.exit_code == 0, (command, result.output, result.exception)
        if command == "inspect --calls":
            assert len(result.stdout.splitlines()) == 10


@pytest.mark.parametrize("hooked", [False, True])
async def test_arguments_that_python_cannot_hold_are_refused_not_failed(
    bus: pgbus.Bus, owner: asyncpg.Connection, hooked: bool
) -> None:
    if hooked:

        @bus.client.before_rpc_execution
        async def look(rpc_message: pgbus.RpcMessage) -> None: ...

    @bus.procedure("sums.add")
    async def add(**numbers: float) -> float:
        return sum(numbers.values())

    async with running(bus):
        for arguments in ('{"a": 1e999999}', LONG_INTEGER, "[1]"):
            await owner.execute(
                f"INSERT INTO pgbus.rpc_requests {CALL_COLUMNS} "
                "(gen_random_uuid(), 'sums.add', $1, 'x', 'x', now() + interval '1 hour')",
                arguments,
            )
        await bus.call("sums.add", {"a": 1})
        await eventually(lambda: owner.fetchval("SELECT count(*) = 4 FROM pgbus.rpc_responses"))
    states = await owner.fetch("SELECT state, error FROM pgbus.rpc_calls WHERE caller = 'x'")
    assert [row["state"] for row in states] == ["refused"] * 3
    assert all("the arguments do not fit sums.add" in row["error"] for row in states)


async def test_odd_schemas_are_passed_over(owner: asyncpg.Connection, database: str, invoke: Invoke) -> None:
    insert = "INSERT INTO pgbus.schemas (kind, name, service, version, schema, hash) VALUES ($1, $2, 'x', 1, $3, $4)"
    for kind, schema in (
        ("event", '["parameters"]'),
        ("event", "{}"),
        ("procedure", '{"parameters": 1, "response": {}}'),
        ("listener", '{"events": []}'),
    ):
        with pytest.raises(asyncpg.CheckViolationError):
            await owner.execute(insert, kind, "a.b", schema, "")
    deep = '{"x": ' + "[" * 3_000 + "]" * 3_000 + "}"
    for number, parameters in enumerate((deep, '{"type": "nothing"}', '{"$ref": "http://127.0.0.1:1/x"}')):
        schema = f'{{"parameters": {parameters}, "response": {{}}}}'
        await owner.execute(insert, "procedure", f"sums.of_{number}", schema, str(number))
        await owner.execute(insert, "event", f"a.e{number}", schema, str(number))
    async with open_bus(database) as bus, open_bus(database) as caller:
        for number in range(3):

            @bus.procedure(f"sums.of_{number}")
            async def give_back(a: int) -> int:
                return a

        async with running(bus):
            for number in range(3):
                assert await caller.call(f"sums.of_{number}", {"a": 1}) == 1
            await bus.publish({"n": 1}, topic="a.e1")
            await eventually(lambda: owner.fetchval("SELECT count(*) = 1 FROM pgbus.events"))
    for command in ("inspect --validate", "schema dump"):
        assert (await invoke(*command.split())).exit_code == 0


async def test_anyone_may_notify_anything(
    owner: asyncpg.Connection, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    inbox: Inbox[object] = Inbox()
    async with open_bus(database) as bus:

        @bus.listener("a.b", name="mail")
        async def handle(event: object) -> None:
            inbox.put(event)

        @bus.procedure("sums.one")
        async def one() -> int:
            return 1

        async with running(bus):
            assert await bus.call("sums.one") == 1
            for channel in ("pgbus_work", "pgbus_calls", "pgbus_schemas", "pgbus_wake"):
                for payload in JUNK:
                    await owner.execute("SELECT pg_notify($1, $2)", channel, payload)
            await bus.publish({"n": 1}, topic="a.b")
            await inbox.take(1)
            assert await bus.call("sums.one") == 1
    assert not [record for record in caplog.records if record.exc_info]


async def test_what_others_say_on_the_channel_of_a_callers_answers_harms_no_call(
    bus: pgbus.Bus, owner: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    answering = asyncio.Event()

    @bus.procedure("sums.one")
    async def one() -> int:
        await answering.wait()
        return 1

    async with running(bus):
        call = asyncio.ensure_future(bus.call("sums.one", wait=True, timeout=30))
        await eventually(lambda: owner.fetchval("SELECT count(*) = 1 FROM pgbus.rpc_requests"))
        caller = await owner.fetchval("SELECT caller FROM pgbus.rpc_requests")
        call_id = await owner.fetchval("SELECT call_id FROM pgbus.rpc_requests")
        results = ("{", "{}", '{"x": 1}', f'{{"{uuid4()}": 2}}', f'{{"{call_id}": }}', "{" * 3_000)
        for payload in (*JUNK, *results, str(uuid4()), str(call_id), f"x,{call_id}"):
            await owner.execute("SELECT pg_notify($1, $2)", f"pgbus_reply_{caller}", payload)
        answering.set()
        assert await call == 1
        assert await bus.call("sums.one") == 1
    assert not [record for record in caplog.records if record.exc_info]


async def test_what_others_wrote_does_not_steer_the_terminal(rows: Rows, invoke: Invoke) -> None:
    evil = "a\x1b]0;x\x07\x9b31m\u202e\x7f[/red]\nb"
    listener_id = await rows.listener(evil, "a.b")
    await rows.event(1, "a.b", {evil: evil}, key=evil, headers={evil: evil})
    await rows.attempt(listener_id, 1, "dead", error=evil)
    await rows.dead_letter(listener_id, 1, error=evil, blocked_key=evil)
    await rows.delivery(listener_id, 1, last_error=evil)
    await rows.worker(evil, evil)
    await rows.connection.execute(
        f"INSERT INTO pgbus.rpc_requests {CALL_COLUMNS} (gen_random_uuid(), $1::text, '{{}}', 'x', $1::text, now())",
        evil,
    )
    await rows.connection.execute(
        "INSERT INTO pgbus.schedules (schedule_name, rule, service) VALUES ($1, $1, $1)", evil
    )
    for command in SHOWING:
        result = await invoke(*command.split())
        assert result.exit_code == 0, (command, result.output)
        assert not set(result.output) & set("\x1b\x07\x9b\u202e\x7f"), command
    assert (await invoke("events", "--json")).stdout.count("\n") == 1
    assert json.loads((await invoke("events", "--json")).stdout)["key"] == evil
    assert "key a\\u001b]0;x\\u0007\\u009b31m\\u202e\\u007f[/red]\\u000ab" in (await invoke("events")).stdout
    for command in ("listeners pause", "listeners resume", "listeners remove --force --yes"):
        result = await invoke(*command.split(), evil)
        assert result.exit_code == 0, (command, result.output, result.exception)
        assert not set(result.output) & set("\x1b\x07\x9b\u202e\x7f"), command
    result = await invoke("listeners", "pause", "x\x1b")
    assert (result.exit_code, "\x1b" in result.stderr) == (1, False)


@pytest.mark.parametrize("command", ["publish a.b {}", "call a.b {}"])
async def test_json_that_nests_too_deeply_is_a_mistake_of_usage(invoke: Invoke, command: str) -> None:
    result = await invoke(*command.format("[" * 20_000 + "]" * 20_000).split())
    assert (result.exit_code, result.exception.__class__) == (2, SystemExit)
