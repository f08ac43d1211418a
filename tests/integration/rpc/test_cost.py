"""What a call takes: how many statements, and where arguments and results travel."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

import pgbus
from pgbus.database.statements import rpc
from pgbus.database.statements.rpc import Answered, Response
from pgbus.database.store import Store
from tests.conftest import Connect
from tests.support import eventually
from tests.support.workers import open_bus, running

# What callers and servers run for each call; the directory runs its own by the clock.
OF_CALLS = {"post_requests", "claim_requests", "answer_requests", "answer_and_claim", "fetch_responses"}
SECRET = "correct horse battery staple"


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each statement of calls ran in this process."""
    counts: Counter[str] = Counter()
    fetch = Store.fetch

    async def counted(store: Store, name: str, /, **values: Any) -> list[Any]:
        if name in OF_CALLS:
            counts[name] += 1
        return await fetch(store, name, **values)

    monkeypatch.setattr(Store, "fetch", counted)
    monkeypatch.setattr("pgbus.rpc.exchange.WATCH_INTERVAL", 30.0)  # a slow machine's calls are not old
    return counts


def declare(bus: pgbus.Bus) -> None:
    @bus.procedure("words.repeat", concurrency=20)
    async def repeat(word: str, times: int = 1) -> str:
        return word * times


async def test_a_call_by_itself_takes_three_statements(bus: pgbus.Bus, statements: Counter[str]) -> None:
    declare(bus)
    async with running(bus):
        await bus.call("words.repeat", {"word": "a"})
        await eventually(lambda: statements["answer_requests"] + statements["answer_and_claim"] == 1)
        statements.clear()
        for _ in range(10):
            assert await bus.call("words.repeat", {"word": "a"}, timeout=60) == "a"
        # Further claims are those of a worker that looks by the clock, too, in case a notification was lost. One that
        # finds a call is overtaken by its notification, and so the answer claims again.
        statements["answer_requests"] += statements.pop("answer_and_claim", 0)
        assert statements - Counter(claim_requests=5) <= Counter(
            post_requests=10, claim_requests=10, answer_requests=10
        )


async def test_calls_at_the_same_time_take_fewer_each(bus: pgbus.Bus, statements: Counter[str]) -> None:
    declare(bus)

    async def caller() -> None:
        for _ in range(10):
            assert await bus.call("words.repeat", {"word": "a"}, timeout=60) == "a"

    async with running(bus):
        await bus.call("words.repeat", {"word": "a"})
        statements.clear()
        await asyncio.gather(*(caller() for _ in range(20)))
        assert statements.total() < 200
        assert statements["fetch_responses"] == 0


async def test_responses_are_written_with_the_claim_of_what_waits(
    bus: pgbus.Bus, statements: Counter[str], database: str, connect: Connect
) -> None:
    connection = await connect(database)
    entered = asyncio.Event()
    leave = asyncio.Event()

    @bus.procedure("words.wait", concurrency=1)
    async def wait() -> int:
        entered.set()
        await leave.wait()
        return 1

    async with running(bus):
        first = asyncio.create_task(bus.call("words.wait", timeout=60))
        await entered.wait()
        others = [asyncio.create_task(bus.call("words.wait", timeout=60)) for _ in range(5)]
        await eventually(lambda: connection.fetchval("SELECT count(*) = 6 FROM pgbus.rpc_requests"))
        leave.set()
        assert await asyncio.gather(first, *others) == [1] * 6
        assert statements["answer_and_claim"] >= 5


@pytest.mark.parametrize("word", ["a", "é", "\N{EARTH GLOBE EUROPE-AFRICA}", '"\\\n'])
async def test_a_result_is_the_same_in_a_notification_and_from_the_table(
    bus: pgbus.Bus, statements: Counter[str], word: str
) -> None:
    declare(bus)
    async with running(bus):
        sizes = (1, 400, 1_990, 2_010, 9_000)
        for times in sizes:
            assert await bus.call("words.repeat", {"word": word, "times": times}, timeout=60) == word * times
        many = [bus.call("words.repeat", {"word": word, "times": times}, timeout=60) for times in sizes * 10]
        assert await asyncio.gather(*many) == [word * times for times in sizes * 10]
        assert statements["fetch_responses"] > 0


async def test_arguments_and_results_are_in_no_notification_that_others_can_hear(
    bus: pgbus.Bus, database: str, connect: Connect
) -> None:
    declare(bus)
    stranger = await connect(database)
    heard: list[str] = []
    for channel in ("pgbus_calls", "pgbus_work", "pgbus_schemas", "pgbus_wake", "pgbus_reply_"):
        await stranger.add_listener(channel, lambda *event: heard.append(event[3]))
    async with running(bus):
        assert await bus.call("words.repeat", {"word": SECRET}) == SECRET
        await eventually(lambda: "words.repeat" in heard)
        await stranger.fetchval("SELECT 1")
    assert not [payload for payload in heard if "horse" in payload]


async def test_no_two_callers_have_the_same_channel_and_none_is_short(
    bus: pgbus.Bus, database: str, connect: Connect
) -> None:
    declare(bus)
    connection = await connect(database)
    async with running(bus), open_bus(database) as other:
        for caller in (bus, other):
            await caller.call("words.repeat", {"word": "a"})
    callers = [row["caller"] for row in await connection.fetch("SELECT caller FROM pgbus.rpc_requests")]
    assert len(set(callers)) == 2
    assert {len(caller) for caller in callers} == {16}  # of 64 signs each: 96 bits


async def test_a_result_that_came_too_late_is_in_no_notification(database: str, connect: Connect) -> None:
    connection, listening = await connect(database), await connect(database)
    store = Store(connection, namespace="pgbus")
    heard: list[str] = []
    await listening.add_listener("pgbus_reply_x", lambda *event: heard.append(event[3]))
    lost, fine = uuid4(), uuid4()
    await rpc.answer_requests(store, [Response(lost, "lost", error="died")], worker="w", told=())

    async def answer(*call_ids: UUID) -> str:
        responses = [Response(call_id, "answered", result="1") for call_id in call_ids]
        hint = ",".join(map(str, call_ids))
        payload = json.dumps({str(call_id): 1 for call_id in call_ids})
        told = [Answered("pgbus_reply_x", payload, hint=hint)]
        await rpc.answer_requests(store, responses, worker="w", told=told)
        await eventually(lambda: heard)
        return heard.pop()

    assert await answer(lost, fine) == f"{lost},{fine}"
    assert (await rpc.fetch_responses(store, [lost]))[0].outcome == "lost"
    assert await answer(other := uuid4()) == f'{{"{other}": 1}}'


async def test_a_server_that_lost_its_connection_answers_on_another_one(
    bus: pgbus.Bus, database: str, connect: Connect
) -> None:
    declare(bus)
    killer: asyncpg.Connection = await connect(database)
    async with running(bus):
        for _ in range(3):
            assert await bus.call("words.repeat", {"word": "a"}, timeout=60) == "a"
            await killer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND query LIKE '%rpc_responses%' AND pid <> pg_backend_pid()"
            )
        assert await bus.call("words.repeat", {"word": "a"}, timeout=60) == "a"
