"""Whatever a publisher or a caller puts into the tables that they may write: what comes after it is delivered."""

from __future__ import annotations

import asyncio
from uuid import UUID

import asyncpg
import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

import pgbus
from pgbus import migrate
from tests.support.workers import QUICK_RETRY, Inbox, open_bus, running

INSTANTS = ("infinity", "-infinity", "200000-01-01", "0001-01-01", "4000-01-01 BC", "9999-12-31 23:59:59.999999+00")
NUMBERS = ("1e400", "-1e400", "1e-400", "-0", "12345678901234567890123", "1" + "0" * 6_000, "0.1")
WORDS = ("\\u0000", "\\ud800", "\\udc00\\ud800", "\x1b[31m", "\u202e", "NaN", "Infinity", "\\u001b", "x" * 100_000, "")

words = st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20).map(
    lambda text: text.replace("\\", "/").replace('"', "'")
)
values = st.recursive(
    st.sampled_from((*NUMBERS, "null", "true")) | words.map(lambda word: f'"{word}"'),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda parts: f"[{', '.join(parts)}]")
        | st.lists(st.tuples(words, inner), max_size=3).map(
            lambda pairs: "{" + ", ".join(f'"{name}": {value}' for name, value in pairs) + "}"
        )
        | inner.flatmap(
            lambda value: st.sampled_from((10, 900, 3_000)).map(lambda depth: "[" * depth + value + "]" * depth)
        )
    ),
    max_leaves=6,
)
names = st.sampled_from(("a.b", "sums.add", "a", "a..b", "\u202e", "x" * 300)) | words
instants = st.sampled_from(INSTANTS)
ids = st.sampled_from((str(UUID(int=0)), str(UUID(int=2**128 - 1)))) | st.uuids().map(str)
identities = st.sampled_from(("0", "-5", "9223372036854775807"))
schemas = values.map(lambda value: f'{{"parameters": {value}, "response": {value}, "events": {value}}}')
arrays = st.sampled_from(("{}", "{NULL}", "{{a,b},{c,d}}", "[5:6]={a.c,b}", "{a.b}", '{"\u202e"}'))

COLUMNS = {
    ("publisher", "outbox"): {
        "event_id": ("uuid", ids), "topic": ("text", names), "ancestors": ("text[]", arrays), "key": ("text", words),
        "payload": ("jsonb", values), "headers": ("jsonb", values), "deliver_at": ("timestamptz", instants),
        "published_at": ("timestamptz", instants), "id": ("bigint", identities),
    },
    ("publisher", "schemas"): {
        "kind": ("text", st.sampled_from(("event", "procedure", "listener"))), "name": ("text", names),
        "service": ("text", words), "version": ("integer", st.sampled_from(("1", "2147483647"))),
        "schema": ("jsonb", schemas), "hash": ("text", words), "published_at": ("timestamptz", instants),
    },
    ("caller", "rpc_requests"): {
        "call_id": ("uuid", ids), "procedure": ("text", names), "arguments": ("json", values),
        "caller": ("text", words), "caller_name": ("text", words), "deadline": ("timestamptz", instants),
        "requested_at": ("timestamptz", instants), "taken_at": ("timestamptz", instants),
    },
}  # fmt: skip
NEEDED = {
    "outbox": ("topic",), "schemas": ("kind", "name", "version", "schema", "hash"),
    "rpc_requests": ("call_id", "procedure", "arguments", "caller", "caller_name", "deadline"),
}  # fmt: skip
GOOD = {"topic": "a.b", "kind": "event", "name": "a.b", "procedure": "sums.add", "arguments": "{}", "caller": "x",
        "caller_name": "x", "version": "1", "schema": '{"parameters": {}}'}  # fmt: skip


@st.composite
def rows(draw: st.DrawFn) -> tuple[str, str, dict[str, tuple[str, str]]]:
    """A role, a table, and for some of its columns a type and a value, most of which the role may write."""
    role, table = draw(st.sampled_from(tuple(COLUMNS)))
    columns = COLUMNS[role, table]
    row = {
        name: (columns[name][0], GOOD[name] if name in GOOD and draw(st.booleans()) else draw(columns[name][1]))
        for name in NEEDED[table]
    }
    for name in draw(st.lists(st.sampled_from(tuple(columns)), max_size=1, unique=True)):
        row[name] = (columns[name][0], draw(columns[name][1]))
    return role, table, row


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(rows(), min_size=10, max_size=40))
def test_what_comes_after_odd_rows_is_delivered(
    database: str, written: list[tuple[str, str, dict[str, tuple[str, str]]]]
) -> None:
    asyncio.run(deliver_after(database, written))


async def deliver_after(database: str, written: list[tuple[str, str, dict[str, tuple[str, str]]]]) -> None:
    await asyncio.to_thread(migrate.grant_roles, database)
    owner = await asyncpg.connect(database)
    inbox: Inbox[object] = Inbox()
    async with open_bus(database) as bus:

        @bus.listener("a.b", name="mail", retry=QUICK_RETRY)
        async def handle(event: object, context: pgbus.Context) -> None:
            inbox.put((context.event.version, context.event.payload))

        @bus.procedure("sums.add")
        async def add(a: int = 1, b: int = 2) -> int:
            return a + b

        async with running(bus):
            for role, table, row in written:
                await write(owner, role, table, row)
            await bus.publish({"good": True}, topic="a.b")
            await inbox.until(lambda items: (1, {"good": True}) in items)
            assert await bus.call("sums.add") == 3
    await owner.close()


async def write(owner: asyncpg.Connection, role: str, table: str, row: dict[str, tuple[str, str]]) -> None:
    given = ", ".join(f"${number}::text::{kind}" for number, (kind, _) in enumerate(row.values(), 1))
    overriding = "OVERRIDING SYSTEM VALUE" if "id" in row else ""
    try:
        async with owner.transaction():
            await owner.execute(f"SET LOCAL ROLE pgbus_{role}")
            await owner.execute(
                f"INSERT INTO pgbus.{table} ({', '.join(row)}) {overriding} VALUES ({given})",
                *(value for _, value in row.values()),
            )
    except asyncpg.PostgresError:
        pass  # refused, which is as well
