"""`backfill_listener`: a listener that is behind gets what the log holds for it."""

from __future__ import annotations

import asyncio

from pgbus.database.statements import sequencer
from pgbus.database.statements.sequencer import Backfilling
from tests.support.bench import Bench
from tests.support.waiting import PATIENCE


async def test_a_listener_that_is_behind_gets_the_log_in_stretches_and_then_is_live(bench: Bench) -> None:
    listener_id = await bench.rows.listener("behind", "a.*", cursor=2)
    await bench.log(1, 2, 4, 5, topic="a.b")
    await bench.log(3, topic="x.y")
    assert await sequencer.backfill_listener(bench.store, batch=3, run=10) == Backfilling(
        listener_id=listener_id, were_behind=True
    )
    assert await bench.deliveries("first, last, positions, available_at IS NOT NULL") == [(2, 4, [2, 4], True)]
    assert await bench.fetch("SELECT cursor FROM pgbus.listeners") == [(5,)]
    assert await sequencer.backfill_listener(bench.store, batch=3, run=10) == Backfilling(
        listener_id=listener_id, were_behind=True
    )
    assert await bench.deliveries("first, last") == [(2, 4), (5, 5)]
    assert await bench.fetch("SELECT cursor FROM pgbus.listeners") == [(None,)]
    assert await sequencer.backfill_listener(bench.store, batch=3, run=10) == Backfilling(
        listener_id=None, were_behind=False
    )


async def test_backfilling_keeps_keys_in_the_lanes_that_sequencing_gives_them(bench: Bench) -> None:
    await bench.rows.listener("live", "**", lanes=8)
    for number in range(20):
        await bench.outbox("a.b", key=f"key-{number}")
    await bench.sequence()
    live = await bench.deliveries("lane, first, last, positions")
    await bench.connection.execute("DELETE FROM pgbus.deliveries; UPDATE pgbus.listeners SET cursor = 0")
    await sequencer.backfill_listener(bench.store, batch=100, run=10)
    assert await bench.deliveries("lane, first, last, positions") == live


async def test_a_listener_whose_row_someone_holds_locked_is_backfilled_later(bench: Bench, other: Bench) -> None:
    listener_id = await bench.rows.listener("behind", "**", cursor=0)
    await bench.log(1)
    async with other.connection.transaction():
        await other.connection.execute("UPDATE pgbus.listeners SET last_seen_at = now()")
        async with asyncio.timeout(PATIENCE):
            assert await sequencer.backfill_listener(bench.store, batch=100, run=10) == Backfilling(
                listener_id=None, were_behind=True
            )
    assert await sequencer.backfill_listener(bench.store, batch=100, run=10) == Backfilling(
        listener_id=listener_id, were_behind=True
    )


async def test_a_paused_listener_is_backfilled_too(bench: Bench) -> None:
    await bench.rows.listener("paused", "**", cursor=0, state="paused")
    await bench.log(1)
    await sequencer.backfill_listener(bench.store, batch=100, run=10)
    assert await bench.deliveries() == [(1, 1)]
