"""A leader's session sends each statement in one message: a leader that froze between two would keep the lead."""

import asyncio
import math
import time

import asyncpg
import pytest

from pgbus.config import Config
from pgbus.database.session import Session
from pgbus.database.statements import sequencer
from pgbus.database.store import Store
from pgbus.leader.leader import BEAT
from tests.support import eventually
from tests.support.orders import collect, publish
from tests.support.workers import open_bus, running

LATE = """
SELECT p.statement
FROM pg_prepared_statements AS p
WHERE p.prepare_time > $1 AND p.statement NOT LIKE '%pg_prepared_statements%'
"""


async def test_all_statements_of_a_leader_are_prepared_before_it_leads(
    database: str, connection: asyncpg.Connection
) -> None:
    async with open_bus(database, poll_interval=0.05) as bus:
        mail = collect(bus, name="mail")
        ledger = collect(bus, name="ledger", ordered=True, start="beginning")
        await publish(bus, 1)  # for the backfill
        async with running(bus) as worker:
            assert worker._parts
            leader = worker._parts.leader
            await eventually(lambda: leader.leads)
            led_at = await connection.fetchval("SELECT clock_timestamp()")
            await publish(bus, 2)
            await bus.publish_many([{"n": number} for number in range(3, 20)], topic="orders.placed")
            await bus.publish({"n": 20}, topic="orders.placed", delay=0.05)
            assert sorted(await ledger.take(20)) == list(range(1, 21))
            await mail.take(19)
            assert leader._session
            assert await leader._session.fetch(LATE, led_at) == []


async def test_a_session_whose_user_freezes_at_the_first_use_of_a_statement_ends_if_it_was_prepared(
    database: str,
) -> None:
    session = await Session.open(Config(dsn=database), channels={})
    try:
        await session.prepare(["beat"])
        await session.connection.execute("SET idle_session_timeout = '100ms'")
        await sequencer.beat(session.store)
        async with asyncio.timeout(60):
            await session.lost.wait()
    finally:
        session.terminate()


async def test_a_leader_beats_only_when_its_session_has_been_idle_for_long(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle: list[float] = []
    beat = sequencer.beat

    async def noted(store: Store) -> None:
        session = leader._session
        assert session
        idle.append(time.monotonic() - session.idle_since)
        await beat(store)

    monkeypatch.setattr(sequencer, "beat", noted)
    async with open_bus(database) as bus, running(bus) as worker:
        assert worker._parts
        leader = worker._parts.leader
        await eventually(lambda: len(idle) > 2)
    assert min(idle) >= BEAT * 0.9


async def test_a_session_is_idle_since_its_last_statement_and_not_while_one_runs(database: str) -> None:
    session = await Session.open(Config(dsn=database), channels={})
    try:
        running_one = asyncio.create_task(session.fetch("SELECT pg_sleep(0.05)"))
        await eventually(lambda: session.idle_since == math.inf)
        began = time.monotonic()
        await running_one
        assert began <= session.idle_since <= time.monotonic()
    finally:
        await session.close()


async def test_a_prepared_statement_is_parsed_again_once_a_migration_has_changed_its_columns(
    database: str, connection: asyncpg.Connection
) -> None:
    session = await Session.open(Config(dsn=database), channels={})
    try:
        await session.prepare(sequencer.names_to_lead())
        assert await sequencer.load_routes(session.store) == []
        await connection.execute("ALTER TABLE pgbus.subscriptions ALTER COLUMN pattern TYPE varchar")
        assert await sequencer.load_routes(session.store) == []
    finally:
        session.terminate()
