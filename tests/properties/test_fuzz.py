"""Hostile values through each door of a bus whose worker runs: each is refused, handled or a dead letter with a reason.

The worker lives in the end, no listener is stuck, and PGBUS_FUZZ_LOG names a file for what was tried, as lines of JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pgbus
from tests.support import eventually
from tests.support.programs import run_program
from tests.support.workers import QUICK_RETRY, open_bus, running

SOAK = int(os.environ.get("PGBUS_SOAK", "0"))
PROFILE = settings(
    max_examples=2_000 * SOAK or 60, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
HOSTILE = st.sampled_from([
    "'; DROP TABLE events; --", "$1", ":topic", "%s", "%(n)s", "\x00", "\ud800", "\u202e", "\x1b[2J", "pgbus.events",
    "a" * 300,     '"', "\\", "{}", "NULL", "*", "**", "orders.*", "../../etc/passwd", "",
])  # fmt: skip
words = st.text(max_size=30) | HOSTILE
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words | st.binary(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=10,
)
topics = st.sampled_from(["fuzz.typed", "fuzz.plain", "fuzz.batch"]) | words
json_texts = values.map(lambda value: json.dumps(value, default=str)) | st.sampled_from([
    '{"n": 1e400}', "1" + "0" * 4_000, "[" * 2_000 + "]" * 2_000, '"\\u0000"', '"\\ud800"', '{"n": 1, "n": 2}', "NaN",
    "", "{",
])  # fmt: skip


@dataclass
class Typed:
    n: int
    tags: list[str]


class Doors:
    """A bus with a worker, on a loop of its own, and what became of all that was tried."""

    def __init__(self, dsn: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.dsn = dsn
        self.tried: list[tuple[str, str, str]] = []
        self._stack = AsyncExitStack()
        self.loop.run_until_complete(self._open())

    async def _open(self) -> None:
        self.bus = await self._stack.enter_async_context(open_bus(self.dsn))
        self._declare()
        await self._stack.enter_async_context(running(self.bus))
        self.connection = await asyncpg.connect(self.dsn)

    def _declare(self) -> None:
        @self.bus.listener("fuzz.typed", name="typed", retry=QUICK_RETRY)
        async def typed(event: Typed) -> None:
            pass

        @self.bus.listener("**", name="everything", retry=QUICK_RETRY)
        async def everything(event: Any) -> None:
            pass

        @self.bus.listener("**", name="lanes", ordered=True, retry=QUICK_RETRY)
        async def lanes(event: Any, context: pgbus.Context) -> None:
            json.dumps([context.event.key, context.event.headers])

        @self.bus.listener("fuzz.batch", name="batch", batch=True, retry=QUICK_RETRY)
        async def batch(events: list[Typed]) -> None:
            pass

        @self.bus.procedure("fuzz.add")
        async def add(n: int, tags: list[str]) -> int:
            return n + len(tags)

    def attempt(self, door: str, given: object, work: Callable[[], Awaitable[object]]) -> None:
        """Try it: it is accepted, or refused by an error that one may expect there; anything else is a finding."""
        try:
            self.loop.run_until_complete(work())
        except (pgbus.PgbusError, TypeError, asyncpg.PostgresError, asyncpg.DataError) as error:
            fate = refusal(error)
        else:
            fate = "accepted"
        self.tried.append((door, ascii(given)[:300], fate))

    async def settled(self) -> None:
        async def nothing_owed() -> bool:
            # What waits in the outbox is not in the log yet, and so is in no listener's lag.
            query = """SELECT NOT EXISTS (SELECT FROM pgbus.outbox)
                       AND NOT EXISTS (SELECT FROM pgbus.listener_lag WHERE lag_events > 0)"""
            return bool(await self.connection.fetchval(query))

        await eventually(nothing_owed, message="a listener is stuck")

    def close(self) -> None:
        self.loop.run_until_complete(self._close())
        self.loop.close()

    async def _close(self) -> None:
        self.connection.terminate()
        await self._stack.aclose()


def refusal(error: Exception) -> str:
    """What a refusal is called; it has a reason, and it is not that a part of the data was read as SQL."""
    assert str(error)
    assert not isinstance(error, asyncpg.PostgresSyntaxError), "data reached the server as SQL"
    return f"refused: {type(error).__name__}"


@pytest.fixture
def doors(database: str) -> Iterator[Doors]:
    opened = Doors(database)
    try:
        yield opened
        opened.loop.run_until_complete(opened.settled())
        check(opened)
    finally:
        if file := os.environ.get("PGBUS_FUZZ_LOG"):
            with Path(file).open("a") as log:
                log.writelines(json.dumps(one) + "\n" for one in opened.tried)
        opened.close()


def check(doors: Doors) -> None:
    """The worker works, every dead letter has a reason, and every accepted event is in the history or dead."""

    async def ask() -> None:
        assert await doors.bus.call("fuzz.add", {"n": 1, "tags": ["x"]}) == 2
        unexplained = "SELECT count(*) FROM pgbus.dead WHERE coalesce(error, '') = ''"
        assert await doors.connection.fetchval(unexplained) == 0
        fateless = """
            SELECT count(*) FROM pgbus.event_history AS h
            WHERE h.outcome IS NULL AND NOT EXISTS (SELECT FROM pgbus.dead AS d WHERE d.event_id = h.event_id)
        """
        assert await doors.connection.fetchval(fateless) == 0
        assert await doors.connection.fetchval("SELECT count(*) FROM pgbus.events") > 0  # nobody has dropped it

    doors.loop.run_until_complete(ask())
    fates = Counter(fate.split(":")[0] for _, _, fate in doors.tried)
    print(doors.tried[0][0], dict(fates))  # noqa: T201


def test_whatever_is_published_is_refused_or_delivered(doors: Doors) -> None:
    @PROFILE
    @given(
        topic=topics, value=values, key=st.none() | words, headers=st.none() | st.dictionaries(words, words, max_size=3)
    )
    def publish(topic: str, value: Any, key: str | None, headers: dict[str, str] | None) -> None:
        doors.attempt(
            "publish",
            (topic, value, key, headers),
            lambda: doors.bus.publish(value, topic=topic, key=key, headers=headers),
        )

    publish()
    doors.attempt("publish", "a good one", lambda: doors.bus.publish({"n": 1, "tags": []}, topic="fuzz.typed"))


def test_whatever_sql_inserts_is_refused_or_delivered(doors: Doors) -> None:
    insert = "INSERT INTO pgbus.outbox (topic, key, payload, headers) VALUES ($1, $2, $3, $4)"

    @PROFILE
    @given(topic=topics, key=st.none() | words, payload=json_texts, headers=st.none() | json_texts)
    def publish(topic: str, key: str | None, payload: str, headers: str | None) -> None:
        doors.attempt(
            "insert",
            (topic, key, payload, headers),
            lambda: doors.connection.execute(insert, topic, key, payload, headers),
        )

    publish()
    doors.attempt("insert", "a good one", lambda: doors.connection.execute(insert, "fuzz.typed", None, "{}", None))


def test_whatever_is_called_is_answered_or_refused(doors: Doors) -> None:
    insert = """
        INSERT INTO pgbus.rpc_requests (call_id, procedure, arguments, caller, caller_name, deadline)
        VALUES ($1, $2, $3, $4, $5, clock_timestamp() + interval '2 seconds')
    """

    @PROFILE
    @given(procedure=st.just("fuzz.add") | words, arguments=st.dictionaries(words | st.just("n"), values, max_size=3))
    def call(procedure: str, arguments: dict[str, Any]) -> None:
        doors.attempt("call", (procedure, arguments), lambda: doors.bus.call(procedure, arguments, timeout=5))

    @PROFILE
    @given(procedure=st.just("fuzz.add") | words, arguments=json_texts, caller=words, name=words)
    def post(procedure: str, arguments: str, caller: str, name: str) -> None:
        doors.attempt(
            "request",
            (procedure, arguments, caller, name),
            lambda: doors.connection.execute(insert, uuid4(), procedure, arguments, caller, name),
        )

    call()
    post()
    doors.attempt("publish", "a good one", lambda: doors.bus.publish({"n": 1, "tags": []}, topic="fuzz.typed"))


def test_whatever_the_command_line_gets_ends_in_a_line_and_not_in_a_traceback(database: str, tmp_path: Path) -> None:
    """Few, because each is a process."""
    printable = words.filter(lambda text: "\0" not in text and not any(0xD800 <= ord(char) <= 0xDFFF for char in text))

    @settings(PROFILE, max_examples=100 * SOAK or 5)
    @given(
        verb=st.sampled_from(["publish", "call", "events", "dead", "inspect"]),
        arguments=st.lists(printable, max_size=3),
    )
    def run(verb: str, arguments: list[str]) -> None:
        ended = run_program(verb, *arguments, cwd=tmp_path, environ={"PGBUS_DSN": database})
        assert "Traceback" not in ended.stderr, (verb, arguments, ended.stderr)
        assert "\x1b" not in ended.stdout + ended.stderr
        assert (ended.returncode == 0) or ended.stderr, (verb, arguments)

    run()
