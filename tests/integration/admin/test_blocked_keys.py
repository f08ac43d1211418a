"""Keys that a dead letter blocks, until an operator takes it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import asyncpg
import pytest

from pgbus.admin import Admin, DeadFilter
from pgbus.database.statements import deliveries
from pgbus.database.store import Store
from pgbus.listeners.settlement import settlement
from tests.conftest import Connect
from tests.support import eventually
from tests.support.operators import owed
from tests.support.rows import Rows


@dataclass
class Poisoned:
    """A listener that blocks on poison: event 1 of `adam` is its dead letter, event 2 of `adam` is in a worker's hands.

    The worker claimed it when the letter was there, and so puts it aside when it settles.
    """

    letter_id: int
    listener_id: int
    delivery_id: int

    async def settle(self, connection: asyncpg.Connection) -> None:
        store = Store(connection, namespace="pgbus")
        token = await connection.fetchval("SELECT claim_token FROM pgbus.deliveries WHERE id = $1", self.delivery_id)
        values, _, _ = settlement([], listener_id=self.listener_id, worker="worker-1", blocking=True)
        values |= {name: [None] for name in values if name.startswith("other_")}
        values |= {"delivery_ids": [self.delivery_id], "claim_tokens": [token], "other_deliveries": [self.delivery_id]}
        values |= {"other_positions": [2], "other_attempts": [1], "other_lanes": [3]}
        values |= {"other_outcomes": ["blocked"], "other_keys": ["adam"]}
        assert len(await deliveries.settle_deliveries(store, values)) == 1


@pytest.fixture
async def poisoned(rows: Rows) -> Poisoned:
    ledger = await rows.listener("ledger", "orders.*", lanes=4)
    for position in (1, 2):
        await rows.event(position, key="adam")
    letter_id = await rows.dead_letter(ledger, 1, lane=3, blocked_key="adam")
    delivery_id = await rows.delivery(ledger, 2, lane=3, worker_id=await rows.worker("worker-1", "ledger"))
    return Poisoned(letter_id, ledger, delivery_id)


async def waits_for_a_lock(rows: Rows) -> bool:
    waiting: bool = await rows.connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')"
    )
    return waiting


async def test_a_dead_letter_tells_how_many_events_wait_behind_it(admin: Admin, rows: Rows, poisoned: Poisoned) -> None:
    await rows.event(3, key="eve")
    other = await rows.dead_letter(poisoned.listener_id, 3)
    await poisoned.settle(rows.connection)
    letters = {letter.id: letter for letter in await admin.dead_letters.find()}
    assert (letters[poisoned.letter_id].blocked_key, letters[poisoned.letter_id].blocked) == ("adam", 1)
    assert (letters[other].blocked_key, letters[other].blocked) == (None, 0)
    assert (await admin.listeners.list())[0].blocked == 1


async def test_retrying_a_dead_letter_releases_what_waited_behind_it(
    admin: Admin, rows: Rows, poisoned: Poisoned
) -> None:
    await poisoned.settle(rows.connection)
    assert await owed(rows) == [(2, "blocked")]
    await admin.dead_letters.retry()
    assert await owed(rows) == [(1, "waiting"), (2, "waiting")]


async def test_discarding_a_dead_letter_releases_what_waited_behind_it(
    admin: Admin, rows: Rows, poisoned: Poisoned
) -> None:
    await poisoned.settle(rows.connection)
    await admin.dead_letters.discard()
    assert await owed(rows) == [(2, "waiting")]


async def test_a_key_stays_blocked_while_another_of_its_dead_letters_is_left(
    admin: Admin, rows: Rows, poisoned: Poisoned
) -> None:
    await rows.event(3, key="adam")
    other = await rows.dead_letter(poisoned.listener_id, 3, lane=3, blocked_key="adam")
    await poisoned.settle(rows.connection)
    await admin.dead_letters.discard(DeadFilter(ids=(other,)))
    assert await owed(rows) == [(2, "blocked")]
    await admin.dead_letters.discard()
    assert await owed(rows) == [(2, "waiting")]


async def test_an_event_is_not_put_aside_for_a_dead_letter_that_is_gone(
    admin: Admin, rows: Rows, poisoned: Poisoned
) -> None:
    await admin.dead_letters.discard()
    await poisoned.settle(rows.connection)
    assert await owed(rows) == [(2, "waiting")]


async def test_a_worker_that_blocks_an_event_waits_for_who_takes_the_dead_letter(
    rows: Rows, poisoned: Poisoned, database: str, connect: Connect
) -> None:
    operator, worker = await connect(database), await connect(database)
    async with operator.transaction():
        await Admin(operator).dead_letters.discard()
        settling = asyncio.create_task(poisoned.settle(worker))
        await eventually(lambda: waits_for_a_lock(rows))
    await settling
    assert await owed(rows) == [(2, "waiting")]


async def test_an_operator_who_takes_a_dead_letter_waits_for_who_blocks_an_event(
    admin: Admin, rows: Rows, poisoned: Poisoned, database: str, connect: Connect
) -> None:
    worker = await connect(database)
    async with worker.transaction():
        await poisoned.settle(worker)
        discarding = asyncio.create_task(admin.dead_letters.discard())
        await eventually(lambda: waits_for_a_lock(rows))
    await discarding
    assert await owed(rows) == [(2, "waiting")]
