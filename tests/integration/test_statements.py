"""The engine's statements, rule by rule, on rows as they would be found."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from pgbus.database.adapters import async_executor
from pgbus.database.statements import deliveries, listeners, maintenance, sequencer
from pgbus.database.statements.deliveries import Claim
from pgbus.database.statements.sequencer import Backfilling, LogEnd, Sequencing, WakeSlot
from pgbus.database.store import Store
from pgbus.leader.maintenance import MAX_CRASHES
from pgbus.leader.sequencer import PARTITION_SIZE
from pgbus.listeners.listener import LANES
from pgbus.listeners.settlement import ALONE, BLOCKED, RELEASED, Ending, HeldClaim, settlement
from pgbus.outcomes import DONE, Dead, Retry
from tests.conftest import Connect
from tests.support import eventually
from tests.support.rows import Rows

LEASE = 60.0


class Bench:
    """One connection to a fresh bus, the statements on it, and rows for them."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self.store = Store(connection, namespace="pgbus")
        self.rows = Rows(connection)

    async def fetch(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await self.connection.fetch(query, *values)]

    async def outbox(self, *topics: str, key: str | None = None, deliver_at: datetime | None = None) -> None:
        await self.connection.executemany(
            "INSERT INTO pgbus.outbox (topic, key, deliver_at) VALUES ($1, $2, $3)",
            [(topic, key, deliver_at) for topic in topics],
        )

    async def sequence(self, **values: Any) -> Sequencing:
        defaults = {
            "floor": 0, "wants_xid": False, "due_floor": float("-inf"), "base": 1, "batch": 100,
            "batch_bytes": 1_000_000, "avoid": [], "run": 10,
            "tell_others": False, "idle_listener_ids": [], "token": uuid4(), "worker_id": 1, "lease": LEASE,
        }  # fmt: skip
        return await sequencer.sequence_outbox(self.store, **{**defaults, **values})

    async def claim(self, listener_id: int, **values: Any) -> list[Claim]:
        defaults: dict[str, Any] = {
            "token": uuid4(), "worker_id": 1, "lanes": None, "floor": 0, "due_floor": float("-inf"), "rows": 100,
            "limit": 100, "piece": 100, "lease": LEASE, "suspects": True, "blocking": False,
        }  # fmt: skip
        return await deliveries.claim_deliveries(self.store, listener_id=listener_id, **{**defaults, **values})

    async def settle(self, listener_id: int, claims: Sequence[Claim], *endings: Ending, blocking: bool = False) -> int:
        """Settle each claim with these endings of its events; how many claims were still ours."""
        held_claims = []
        for claim in claims:
            held = HeldClaim(claim, now=time.monotonic())
            for index, ending in enumerate(endings):
                held.end(index, ending, started=time.monotonic(), duration=0.5)
            held_claims.append(held)
        values, _, _ = settlement(held_claims, listener_id=listener_id, worker="worker-1", blocking=blocking)
        return len(await deliveries.settle_deliveries(self.store, values))

    async def deliveries(self, columns: str = "first, last") -> list[tuple[Any, ...]]:
        return await self.fetch(f"SELECT {columns} FROM pgbus.deliveries ORDER BY lane NULLS FIRST, first, id")

    async def log(self, *positions: int, **columns: Any) -> None:
        for position in positions:
            await self.rows.event(position, **columns)


@pytest.fixture
async def bench(database: str, connect: Connect) -> Bench:
    return Bench(await connect(database))


@pytest.fixture
async def other(database: str, connect: Connect) -> Bench:
    """A second session."""
    return Bench(await connect(database))


def positions(claims: Sequence[Claim]) -> list[list[int | None]]:
    return [[event.position for event in claim.events] for claim in claims]


# --------------------------------------------------------------------------------------------------- sequence_outbox


async def test_sequencing_numbers_rows_by_id_and_empties_the_outbox(bench: Bench) -> None:
    await bench.outbox("a.a", "b.b", "c.c")
    look = await bench.sequence(base=40)
    assert (look.moved, look.stopped_at) == (3, None)
    assert await bench.fetch("SELECT position, topic FROM pgbus.events ORDER BY position") == [
        (40, "a.a"),
        (41, "b.b"),
        (42, "c.c"),
    ]
    assert await bench.fetch("SELECT * FROM pgbus.outbox") == []


async def test_sequencing_takes_a_batch_and_tells_where_it_stopped(bench: Bench) -> None:
    await bench.outbox(*["a.b"] * 5)
    ids = [row[0] for row in await bench.fetch("SELECT id FROM pgbus.outbox ORDER BY id")]
    look = await bench.sequence(batch=2)
    assert (look.moved, look.stopped_at) == (2, ids[1])
    assert (await bench.sequence(batch=2, base=3)).stopped_at == ids[3]
    assert (await bench.sequence(batch=2, base=5)).stopped_at is None


async def test_sequencing_looks_at_nothing_below_its_floor(bench: Bench) -> None:
    await bench.outbox("a.a", "b.b")
    [(first,), _] = await bench.fetch("SELECT id FROM pgbus.outbox ORDER BY id")
    assert (await bench.sequence(floor=first + 1)).moved == 1
    assert await bench.fetch("SELECT id FROM pgbus.outbox") == [(first,)]


async def test_sequencing_owes_a_listener_what_it_subscribes_to_by_topic_pattern_and_ancestor(bench: Bench) -> None:
    exact = await bench.rows.listener("exact", "orders.placed")
    star = await bench.rows.listener("star", "orders.*")
    deep = await bench.rows.listener("deep", "**")
    parent = await bench.rows.listener("parent", "base.event")
    wild = await bench.rows.listener("wild parent", "base.*")
    await bench.connection.execute(
        "INSERT INTO pgbus.outbox (topic, ancestors) VALUES ('orders.placed', NULL), ('orders.a.b', NULL), "
        "('x.child', ARRAY['x.between', 'base.event'])"
    )
    look = await bench.sequence()
    assert sorted(look.listener_ids) == sorted([exact, star, deep, parent, wild])
    owed = dict(
        await bench.fetch(
            "SELECT listener_id, array_agg(g ORDER BY g) FROM pgbus.deliveries, generate_series(first, last) AS g "
            "WHERE positions IS NULL GROUP BY listener_id"
        )
    )
    assert owed == {exact: [1], star: [1], deep: [1, 2, 3], parent: [3], wild: [3]}


async def test_an_event_that_matches_two_patterns_is_owed_once(bench: Bench) -> None:
    await bench.rows.listener("mail", "orders.placed", "orders.*", "**")
    await bench.outbox("orders.placed")
    await bench.sequence()
    assert await bench.deliveries("first, last, events") == [(1, 1, 1)]


async def test_sequencing_writes_runs_and_lists_positions_only_where_a_run_has_holes(bench: Bench) -> None:
    await bench.rows.listener("all", "**")
    await bench.outbox(*["a.b"] * 25)
    await bench.sequence(run=10)
    assert await bench.deliveries("first, last, positions") == [(1, 10, None), (11, 20, None), (21, 25, None)]
    await bench.connection.execute(
        "DELETE FROM pgbus.deliveries; UPDATE pgbus.subscriptions SET pattern = 'x', regex = NULL"
    )
    await bench.outbox("x", "y", "x", "x")
    await bench.sequence(base=100)
    assert await bench.deliveries("first, last, events, positions") == [(100, 103, 3, [100, 102, 103])]


async def test_sequencing_spreads_keys_over_lanes_and_keeps_a_key_in_one(bench: Bench) -> None:
    await bench.rows.listener("ordered", "**", lanes=8)
    for number in range(40):
        await bench.outbox("a.b", key=f"key-{number % 10}")
    await bench.sequence()
    lanes = await bench.fetch(
        "SELECT e.key, array_agg(DISTINCT d.lane) FROM pgbus.deliveries AS d JOIN pgbus.events AS e "
        "ON e.position = ANY (COALESCE(d.positions, ARRAY(SELECT generate_series(d.first, d.last)))) GROUP BY e.key"
    )
    assert len(lanes) == 10
    assert all(len(found) == 1 and 0 <= found[0] < 8 for _, found in lanes)
    assert len({found[0] for _, found in lanes}) > 1


async def test_sequencing_owes_nothing_to_a_listener_with_a_cursor(bench: Bench) -> None:
    await bench.rows.listener("behind", "**", cursor=0)
    await bench.outbox("a.b")
    look = await bench.sequence()
    assert (look.moved, look.listener_ids) == (1, [])
    assert await bench.deliveries() == []


async def test_a_scheduled_event_stays_until_it_is_due_and_the_next_one_is_told(bench: Bench) -> None:
    now = datetime.now(UTC)
    await bench.outbox("late.one", deliver_at=now + timedelta(seconds=100))
    await bench.outbox("later.one", deliver_at=now + timedelta(seconds=200))
    await bench.outbox("due.one", deliver_at=now - timedelta(seconds=1))
    look = await bench.sequence()
    assert look.moved == 1
    assert look.next_due is not None
    assert 90 < look.next_due <= 100
    assert await bench.fetch("SELECT topic FROM pgbus.events") == [("due.one",)]


async def test_sequencing_steps_over_a_scheduled_event_that_is_being_cancelled(bench: Bench, other: Bench) -> None:
    await bench.outbox("due.one", deliver_at=datetime.now(UTC) - timedelta(seconds=1))
    async with other.connection.transaction():
        await other.connection.execute("DELETE FROM pgbus.outbox")
        async with asyncio.timeout(5):
            assert (await bench.sequence()).moved == 0


async def test_sequencing_takes_no_xid_unless_it_is_asked_to(bench: Bench) -> None:
    await bench.outbox("a.b")
    assert (await bench.sequence()).xid is None
    look = await bench.sequence(wants_xid=True)
    assert look.xid is not None
    assert look.xid >= look.xmin


async def test_sequencing_claims_a_lone_event_for_the_idle_listeners_that_hear_it(bench: Bench) -> None:
    idle = await bench.rows.listener("idle", "a.*")
    too = await bench.rows.listener("idle too", "a.b")
    deaf = await bench.rows.listener("deaf", "b.b")
    busy = await bench.rows.listener("busy", "a.*")
    await bench.outbox("a.b", key="k")
    token = uuid4()
    look = await bench.sequence(idle_listener_ids=[idle, too, deaf], token=token, worker_id=7)
    assert look.listener_ids == [busy], "the others have nothing left to claim"
    assert sorted(look.handed) == sorted([idle, too])
    assert await bench.fetch(
        "SELECT listener_id, claim_token, worker_id, lease_expires_at > now() FROM pgbus.deliveries ORDER BY 1"
    ) == [(idle, token, 7, True), (too, token, 7, True), (busy, None, None, None)]
    [claimed] = await bench.claim(busy)
    for listener_id, claim in look.handed.items():
        assert claim.events[0] is not look.handed[idle + too - listener_id].events[0], "a handler may change its own"
        assert repr(claim.events) == repr(claimed.events)
        assert (claim.token, claim.attempt, claim.suspect, claim.fresh) == (token, 1, False, True)
        assert await bench.settle(listener_id, [claim], DONE) == 1
    assert await bench.fetch("SELECT listener_id FROM pgbus.history ORDER BY 1") == [(idle,), (too,)]


async def test_sequencing_claims_nothing_for_an_idle_listener_that_is_paused_or_ordered(bench: Bench) -> None:
    paused = await bench.rows.listener("paused", "a.b", state="paused")
    ordered = await bench.rows.listener("ordered", "a.b", lanes=4)
    await bench.outbox("a.b")
    look = await bench.sequence(idle_listener_ids=[paused, ordered])
    assert look.handed == {}
    assert await bench.fetch("SELECT claim_token FROM pgbus.deliveries") == [(None,), (None,)]


async def test_sequencing_claims_none_of_several_events(bench: Bench) -> None:
    idle = await bench.rows.listener("idle", "a.b")
    await bench.outbox("a.b", "a.b")
    look = await bench.sequence(idle_listener_ids=[idle])
    assert (look.listener_ids, look.handed) == ([idle], {})


async def test_sequencing_notifies_others_only_if_there_are_any(bench: Bench, other: Bench) -> None:
    listener_id = await bench.rows.listener("mail", "**")
    heard: list[str] = []
    await other.connection.add_listener("pgbus_work", lambda *args: heard.append(args[3]))
    await bench.outbox("a.b")
    await bench.sequence()
    await bench.outbox("a.b")
    await bench.sequence(base=2, tell_others=True)
    await eventually(lambda: heard)
    assert heard == [str(listener_id)]


async def test_sequencing_orders_scheduled_events_by_the_instant_they_are_due_and_then_by_id(bench: Bench) -> None:
    now = datetime.now(UTC)
    await bench.outbox("at.once", "at.once.too")
    for topic, age in (("third", 1), ("first", 3), ("second", 2), ("third.too", 1)):
        await bench.outbox(topic, deliver_at=now - timedelta(seconds=age))
    await bench.sequence()
    assert await bench.fetch("SELECT topic FROM pgbus.events ORDER BY position") == [
        ("first",), ("second",), ("third",), ("third.too",), ("at.once",), ("at.once.too",)
    ]  # fmt: skip


async def test_sequencing_takes_nothing_of_a_batch_that_is_too_big_but_one_row_anyhow(bench: Bench) -> None:
    noise = "(SELECT jsonb_agg(md5(random()::text || n)) FROM generate_series(1, 500) AS n)"
    await bench.connection.execute(
        f"INSERT INTO pgbus.outbox (topic, payload, deliver_at) VALUES ('a', {noise}, NULL), ('b', {noise}, NULL), "
        f"('c', {noise}, now()), ('d', {noise}, now())"
    )
    look = await bench.sequence(batch_bytes=20_000)
    assert (look.moved, look.too_big, look.has_more) == (0, True, True)
    assert look.stopped_at == -1, "the floor must not pass what was left"
    for base in (1, 3):
        look = await bench.sequence(base=base, batch=1, batch_bytes=20_000)
        assert (look.moved, look.too_big, look.has_more) == (2, False, True)
    look = await bench.sequence(base=5, batch_bytes=20_000)
    assert (look.moved, look.too_big, look.has_more, look.stopped_at) == (0, False, False, None)


async def test_rows_that_someone_holds_locked_are_found_and_stepped_over(bench: Bench, other: Bench) -> None:
    await bench.outbox("a.a", "b.b", "c.c")
    ids = [row[0] for row in await bench.fetch("SELECT id FROM pgbus.outbox ORDER BY id")]
    assert await sequencer.find_locked_events(bench.store, floor=0, batch=10) == []
    async with other.connection.transaction():
        await other.fetch("SELECT id FROM pgbus.outbox WHERE id = $1 FOR UPDATE", ids[1])
        locked = await sequencer.find_locked_events(bench.store, floor=0, batch=10)
        assert locked == [ids[1]]
        look = await bench.sequence(avoid=locked)
        assert (look.moved, look.has_more, look.stopped_at) == (2, False, ids[1] - 1)
    assert await sequencer.find_locked_events(bench.store, floor=0, batch=10) == []
    assert (await bench.sequence(base=3)).moved == 1


async def test_notifications_of_many_listeners_are_cut_into_pieces(bench: Bench, other: Bench) -> None:
    heard: list[str] = []
    await other.connection.add_listener("pgbus_work", lambda *args: heard.append(args[3]))
    await bench.connection.execute(
        """
        INSERT INTO pgbus.listeners (id, listener_name) OVERRIDING SYSTEM VALUE
        SELECT 2000000000 + n, n FROM generate_series(1, 2000) AS n;
        INSERT INTO pgbus.subscriptions SELECT id, 'a.b' FROM pgbus.listeners
        """
    )
    ids = {row[0] for row in await bench.fetch("SELECT id FROM pgbus.listeners")}

    def told() -> bool:
        return {int(part) for payload in heard for part in payload.split(",")} == ids

    await bench.outbox("a.b")
    await bench.sequence(tell_others=True)
    await eventually(told)
    assert len(heard) == 3
    heard.clear()
    await bench.connection.execute("UPDATE pgbus.deliveries SET lane = 1")
    await maintenance.release_lanes(bench.store, batch=10_000)
    await eventually(told)


async def test_keys_stay_in_their_lanes_from_one_version_of_the_server_to_the_next(bench: Bench) -> None:
    # What waits in a lane outlives an upgrade of the server. PostgreSQL's own hash indexes rest on this function, too.
    hashes = await bench.fetch("SELECT hashtext('key-1'), hashtext('customer 7'), hashtext('über')")
    assert hashes == [(-497482992, -1107570502, 690680912)]


# ------------------------------------------------------------------------------------------------- backfill_listener


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
        async with asyncio.timeout(5):
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


# ------------------------------------------------------------------------------------------------- waking and leading


async def test_the_log_ends_after_its_last_event(bench: Bench) -> None:
    assert await sequencer.find_log_end(bench.store) == LogEnd(next_position=0, last_partition=0)
    await bench.log(7)
    assert await sequencer.find_log_end(bench.store) == LogEnd(next_position=8, last_partition=0)


async def test_a_slot_is_armed_only_while_no_publisher_shares_it(bench: Bench, other: Bench) -> None:
    transaction = other.connection.transaction()
    await transaction.start()
    await other.outbox("a.b")
    assert not (await sequencer.try_sleep(bench.store)).armed
    [held] = await sequencer.find_held_slots(bench.store)
    moved = await sequencer.advance_wake_slot(bench.store)
    assert moved == held + 1
    assert await sequencer.try_sleep(bench.store) == WakeSlot(slot=moved, armed=True)
    await transaction.commit()
    assert await sequencer.find_held_slots(bench.store) == set()


async def test_a_publisher_notifies_while_its_slot_is_armed_and_no_longer_after_waking(
    bench: Bench, other: Bench
) -> None:
    heard: list[str] = []
    await bench.connection.add_listener("pgbus_wake", lambda *args: heard.append(args[3]))
    slot = (await sequencer.try_sleep(bench.store)).slot
    await other.outbox("a.b")
    await eventually(lambda: len(heard) == 1)
    await sequencer.wake_up(bench.store, slot=slot)
    await other.outbox("a.b")
    await bench.connection.fetch("SELECT 1")
    assert len(heard) == 1


async def test_one_session_leads_until_it_ends(bench: Bench, other: Bench) -> None:
    assert (await bench.store.fetch_one("try_lead", namespace="pgbus"))["leads"]
    assert not (await other.store.fetch_one("try_lead", namespace="pgbus"))["leads"]
    assert (await other.store.fetch_one("try_lead", namespace="elsewhere"))["leads"]
    await bench.connection.close()

    async def lead() -> bool:
        return bool((await other.store.fetch_one("try_lead", namespace="pgbus"))["leads"])

    await eventually(lead)


async def test_only_the_leader_is_noted_as_leading(bench: Bench) -> None:
    first = await bench.rows.worker("first", live=False, leads=False)
    second = await bench.rows.worker("second", live=False, leads=False)
    await sequencer.note_leader(bench.store, worker_id=first)
    await sequencer.note_leader(bench.store, worker_id=second)
    assert await bench.fetch("SELECT id FROM pgbus.workers WHERE leading_since IS NOT NULL") == [(second,)]


async def test_a_listener_is_ready_when_something_of_its_own_could_be_claimed(bench: Bench) -> None:
    names = ("idle", "fresh", "due", "later", "claimed", "ordered")
    ids = {name: await bench.rows.listener(name, "**", lanes=4 if name == "ordered" else None) for name in names}
    for name in names[1:5]:
        await bench.rows.delivery(ids[name], 1, worker_id=1 if name == "claimed" else None)
    await bench.rows.delivery(ids["ordered"], 1, lane=3)
    await bench.connection.execute(
        "UPDATE pgbus.deliveries SET available_at = now() - interval '1 s' WHERE listener_id = $1", ids["due"]
    )
    await bench.connection.execute(
        "UPDATE pgbus.deliveries SET available_at = now() + interval '1 h' WHERE listener_id = $1", ids["later"]
    )
    ready = await sequencer.find_ready_listeners(bench.store, ids.values())
    assert set(ready) == {ids["fresh"], ids["due"], ids["ordered"]}
    assert await sequencer.find_ready_listeners(bench.store, [ids["idle"]]) == []


# ------------------------------------------------------------------------------------------------- claim_deliveries


async def test_a_claim_takes_whole_runs_and_returns_their_events_in_the_order_of_the_log(bench: Bench) -> None:
    listener_id = await bench.rows.listener("mail", "**")
    await bench.log(*range(1, 8))
    await bench.rows.delivery(listener_id, 4, 6, positions=[4, 6])
    await bench.rows.delivery(listener_id, 1, 3)
    claims = await bench.claim(listener_id, worker_id=9)
    assert positions(claims) == [[1, 2, 3], [4, 6]]
    assert [event.payload for event in claims[1].events] == [{"n": 4}, {"n": 6}]
    [row] = set(await bench.deliveries("worker_id, claim_token, lease_expires_at > now() + interval '50 s'"))
    assert row == (9, claims[0].token, True)


async def test_a_claim_skips_what_is_claimed_locked_or_not_due(bench: Bench, other: Bench) -> None:
    listener_id = await bench.rows.listener("mail", "**")
    await bench.log(1, 2, 3, 4)
    await bench.rows.delivery(listener_id, 1, worker_id=1)
    locked = await bench.rows.delivery(listener_id, 2)
    later = await bench.rows.delivery(listener_id, 3)
    await bench.connection.execute(
        "UPDATE pgbus.deliveries SET available_at = now() + interval '1 h' WHERE id = $1", later
    )
    await bench.rows.delivery(listener_id, 4)
    async with other.connection.transaction():
        await other.fetch("SELECT id FROM pgbus.deliveries WHERE id = $1 FOR UPDATE", locked)
        assert positions(await bench.claim(listener_id)) == [[4]]


async def test_a_claim_takes_nothing_for_a_paused_listener(bench: Bench) -> None:
    listener_id = await bench.rows.listener("mail", "**", state="paused")
    await bench.log(1)
    await bench.rows.delivery(listener_id, 1)
    assert await bench.claim(listener_id) == []


async def test_a_claim_takes_nothing_of_another_listener(bench: Bench) -> None:
    listener_id, other_id = await bench.rows.listener("mail", "**"), await bench.rows.listener("other", "**")
    await bench.log(1)
    await bench.rows.delivery(other_id, 1)
    assert await bench.claim(listener_id) == []


async def test_a_claim_of_part_of_a_run_leaves_the_rest(bench: Bench) -> None:
    listener_id = await bench.rows.listener("mail", "**")
    await bench.log(*range(1, 10))
    await bench.rows.delivery(listener_id, 1, 5)
    await bench.rows.delivery(listener_id, 6, 9, positions=[6, 8, 9])
    assert positions(await bench.claim(listener_id, limit=3)) == [[1, 2, 3]]
    assert positions(await bench.claim(listener_id, limit=3)) == [[4, 5], [6]]
    assert await bench.fetch(
        "SELECT first, last, events, positions FROM pgbus.deliveries WHERE claim_token IS NULL"
    ) == [(8, 9, 2, [8, 9])]
    assert positions(await bench.claim(listener_id, limit=3)) == [[8, 9]]


async def test_a_claim_cuts_runs_into_pieces_that_are_settled_one_by_one(bench: Bench) -> None:
    listener_id = await bench.rows.listener("mail", "**")
    await bench.log(*range(1, 8))
    await bench.rows.delivery(listener_id, 1, 7)
    claims = await bench.claim(listener_id, piece=3)
    assert positions(claims) == [[1, 2, 3], [4, 5, 6], [7]]
    assert await bench.settle(listener_id, claims[:1], DONE, DONE, DONE) == 1
    assert await bench.deliveries() == [(4, 6), (7, 7)]


async def test_a_claim_looks_at_no_more_runs_than_it_is_told(bench: Bench) -> None:
    listener_id = await bench.rows.listener("mail", "**")
    await bench.log(1, 2, 3)
    for position in (1, 2, 3):
        await bench.rows.delivery(listener_id, position)
    assert positions(await bench.claim(listener_id, rows=2)) == [[1], [2]]


async def test_a_claim_looks_at_no_fresh_run_below_its_floor_but_at_what_is_due(bench: Bench) -> None:
    listener_id = await bench.rows.listener("mail", "**")
    await bench.log(1, 2, 3)
    due = await bench.rows.delivery(listener_id, 1)
    await bench.rows.delivery(listener_id, 2)
    await bench.rows.delivery(listener_id, 3)
    await bench.connection.execute("UPDATE pgbus.deliveries SET available_at = now() WHERE id = $1", due)
    claims = await bench.claim(listener_id, floor=3)
    assert [(claim.events[0].position, claim.fresh) for claim in claims] == [(1, False), (3, True)]


async def test_a_suspect_is_claimed_alone_and_only_if_it_may_be(bench: Bench) -> None:
    listener_id = await bench.rows.listener("mail", "**")
    await bench.log(1, 2, 3)
    for position in (1, 2, 3):
        await bench.rows.delivery(listener_id, position)
    await bench.connection.execute(
        "UPDATE pgbus.deliveries SET crashes = 2, available_at = now() WHERE first IN (1, 2)"
    )
    assert positions(await bench.claim(listener_id, suspects=False)) == [[3]]
    [first] = await bench.claim(listener_id)
    assert (first.suspect, len(first.events)) == (True, 1)
    [second] = await bench.claim(listener_id)
    assert second.suspect


async def test_of_a_lane_only_the_head_is_claimed_in_one_piece_and_it_bars_the_rest(bench: Bench) -> None:
    listener_id = await bench.rows.listener("ordered", "**", lanes=LANES)
    await bench.log(*range(1, 8))
    await bench.rows.delivery(listener_id, 1, 4, lane=5)
    await bench.rows.delivery(listener_id, 6, lane=5)
    await bench.rows.delivery(listener_id, 7, lane=9)
    assert positions(await bench.claim(listener_id, lanes=LANES, piece=2)) == [[1, 2], [7]]
    assert await bench.claim(listener_id, lanes=LANES, piece=2) == []


async def test_a_head_that_is_not_due_bars_its_lane(bench: Bench) -> None:
    listener_id = await bench.rows.listener("ordered", "**", lanes=LANES)
    await bench.log(1, 2)
    await bench.rows.delivery(listener_id, 1, lane=5)
    await bench.rows.delivery(listener_id, 2, lane=5)
    await bench.connection.execute("UPDATE pgbus.deliveries SET available_at = now() + interval '1 h' WHERE first = 1")
    assert await bench.claim(listener_id, lanes=LANES) == []


async def test_a_claimed_delivery_blocks_its_lane_also_from_behind_what_was_put_back(bench: Bench) -> None:
    listener_id = await bench.rows.listener("ordered", "**", lanes=LANES)
    await bench.log(1, 2, 3)
    await bench.rows.delivery(listener_id, 2, lane=5)
    [later] = await bench.claim(listener_id, lanes=LANES)
    await bench.rows.delivery(listener_id, 1, lane=5)
    await bench.rows.delivery(listener_id, 3, lane=9)
    assert positions(await bench.claim(listener_id, lanes=LANES)) == [[3]]
    await bench.settle(listener_id, [later], DONE)
    assert positions(await bench.claim(listener_id, lanes=LANES)) == [[1]]


async def test_of_two_that_claim_in_a_lane_at_the_same_moment_one_is_refused(bench: Bench, other: Bench) -> None:
    listener_id = await bench.rows.listener("ordered", "**", lanes=LANES)
    await bench.log(1, 2)
    await bench.rows.delivery(listener_id, 2, lane=5)
    transaction = other.connection.transaction()
    await transaction.start()
    assert positions(await other.claim(listener_id, lanes=LANES)) == [[2]]
    await bench.rows.delivery(listener_id, 1, lane=5)
    refused = asyncio.create_task(bench.claim(listener_id, lanes=LANES))
    waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
    await eventually(lambda: other.fetch(waiting))
    await transaction.commit()
    with pytest.raises(asyncpg.UniqueViolationError):
        await refused
    assert await bench.claim(listener_id, lanes=LANES) == []


async def test_events_that_are_no_longer_in_the_log_are_taken_out_of_a_claim_and_history_says_so(bench: Bench) -> None:
    listener_id = await bench.rows.listener("mail", "**")
    await bench.log(1, 3, 5, 6)
    await bench.rows.delivery(listener_id, 1, 3)
    await bench.rows.delivery(listener_id, 4, 7, positions=[4, 7])
    await bench.rows.delivery(listener_id, 5, 6)
    await bench.rows.delivery(listener_id, 1_500_000_000)
    token = uuid4()
    claims = await bench.claim(listener_id, token=token)
    assert sorted((claim.size, len(claim.events)) for claim in claims) == [(1, 0), (2, 0), (2, 2), (3, 2)]
    lacking = [claim for claim in claims if len(claim.events) < claim.size]
    other_token = [dataclasses.replace(claim, token=uuid4()) for claim in lacking]
    assert await deliveries.skip_missing_events(bench.store, other_token, listener_id=listener_id, worker="w") == []
    skipped = await deliveries.skip_missing_events(bench.store, lacking, listener_id=listener_id, worker="w")
    assert skipped == [2, 4, 7, 1_500_000_000]
    told = await bench.fetch("SELECT position, outcome, worker, error FROM pgbus.history ORDER BY position")
    # There is no partition for the last.
    assert told == [(position, "skipped", "w", "the event is no longer in the log") for position in (2, 4, 7)]
    assert await bench.deliveries("first, last, events, positions, claim_token") == [
        (1, 3, 2, [1, 3], token),
        (5, 6, 2, None, token),
    ]


async def test_a_blocked_event_is_no_head_and_its_key_is_told_for_later_ones(bench: Bench) -> None:
    listener_id = await bench.rows.listener("ordered", "**", lanes=LANES)
    await bench.log(1, 2, 3, key="bad")
    await bench.log(4, key="good")
    await bench.rows.delivery(listener_id, 2, lane=5, blocked_key="bad")
    await bench.rows.delivery(listener_id, 3, 4, lane=5)
    await bench.connection.execute(
        "INSERT INTO pgbus.dead_letters (listener_id, position, attempts, error, worker, blocked_key) "
        "VALUES ($1, 1, 1, 'no', 'w', 'bad')",
        listener_id,
    )
    [claim] = await bench.claim(listener_id, lanes=LANES, blocking=True)
    assert (positions([claim]), claim.blocked) == ([[3, 4]], [True, False])


async def test_two_sessions_that_claim_at_once_share_the_events(bench: Bench, other: Bench) -> None:
    listener_id = await bench.rows.listener("mail", "**")
    await bench.log(*range(1, 101))
    for position in range(1, 101, 4):
        await bench.rows.delivery(listener_id, position, position + 3)
    found: list[int | None] = []

    async def drain(session: Bench) -> None:
        # A claim may find nothing only because the other one holds what it looked at.
        while len(found) < 100:
            found.extend(
                position for claim in positions(await session.claim(listener_id, limit=7)) for position in claim
            )

    async with asyncio.timeout(10):
        await asyncio.gather(drain(bench), drain(other))
    assert sorted(position or 0 for position in found) == list(range(1, 101))


async def test_two_sessions_never_hold_one_lane_at_once(bench: Bench, other: Bench) -> None:
    listener_id = await bench.rows.listener("ordered", "**", lanes=2)
    await bench.log(*range(1, 61))
    for position in range(1, 61, 3):
        await bench.rows.delivery(listener_id, position, position + 2, lane=position % 2)
    held: set[int | None] = set()
    seen: dict[int | None, list[int]] = {0: [], 1: []}

    async def drain(session: Bench) -> None:
        while sum(map(len, seen.values())) < 60:
            for claim in await session.claim(listener_id, lanes=2, piece=2):
                assert claim.lane not in held
                held.add(claim.lane)
                seen[claim.lane].extend(event.position or 0 for event in claim.events)
                await asyncio.sleep(0)
                held.remove(claim.lane)
                await session.settle(listener_id, [claim], *[DONE] * len(claim.events))

    async with asyncio.timeout(20):
        await asyncio.gather(drain(bench), drain(other))
    assert all(numbers == sorted(numbers) for numbers in seen.values())


# ------------------------------------------------------------------------------------------------ settle_deliveries


async def claimed(bench: Bench, *, size: int = 1, attempt: int = 1, lane: int | None = None) -> tuple[int, list[Claim]]:
    """A listener, and its claim of one run at the log's beginning, whose events have the key `k`."""
    listener_id = await bench.rows.listener("mail", "**", lanes=None if lane is None else LANES)
    await bench.log(*range(1, size + 1), key="k")
    await bench.rows.delivery(listener_id, 1, size, attempt=attempt, lane=lane)
    return listener_id, await bench.claim(listener_id, lanes=None if lane is None else LANES)


async def test_what_is_done_is_gone_and_in_the_history(bench: Bench) -> None:
    listener_id, claims = await claimed(bench, size=2, attempt=3)
    assert await bench.settle(listener_id, claims, DONE, DONE) == 1
    assert await bench.deliveries() == []
    assert await bench.fetch(
        "SELECT position, listener_id, attempt, outcome, duration, worker, error FROM pgbus.history"
    ) == [
        (1, listener_id, 3, "done", 0.5, "worker-1", None),
        (2, listener_id, 3, "done", 0.5, "worker-1", None),
    ]


async def test_a_retry_waits_alone_for_its_instant_with_one_more_attempt(bench: Bench) -> None:
    listener_id, claims = await claimed(bench, size=3, attempt=2, lane=4)
    await bench.settle(listener_id, claims, DONE, Retry(100.0, "again"), RELEASED)
    assert await bench.deliveries("first, last, attempt, lane, last_error, available_at > now() + interval '90 s'") == [
        (2, 2, 3, 4, "again", True),
        (3, 3, 2, 4, None, False),
    ]
    assert await bench.fetch("SELECT position, outcome, error FROM pgbus.history ORDER BY position") == [
        (1, "done", None),
        (2, "retry", "again"),
    ]


async def test_a_dead_event_becomes_a_dead_letter(bench: Bench) -> None:
    listener_id, claims = await claimed(bench, attempt=10, lane=4)
    await bench.settle(listener_id, claims, Dead("no", "trace"))
    assert await bench.deliveries() == []
    assert await bench.fetch(
        "SELECT position, lane, attempts, error, traceback, worker, blocked_key FROM pgbus.dead_letters"
    ) == [(1, 4, 10, "no", "trace", "worker-1", None)]
    assert await bench.fetch("SELECT outcome, error FROM pgbus.history") == [("dead", "no")]


async def test_a_dead_event_of_a_blocking_listener_keeps_the_rest_of_its_key_aside(bench: Bench) -> None:
    listener_id, claims = await claimed(bench, size=3, lane=4)
    await bench.settle(listener_id, claims, Dead("no"), BLOCKED, BLOCKED, blocking=True)
    assert await bench.fetch("SELECT position, blocked_key FROM pgbus.dead_letters") == [(1, "k")]
    assert await bench.deliveries("first, last, lane, blocked_key") == [(2, 2, 4, "k"), (3, 3, 4, "k")]


async def test_an_event_that_nothing_blocks_any_more_goes_back_to_its_lane(bench: Bench) -> None:
    listener_id, claims = await claimed(bench, lane=4)
    await bench.settle(listener_id, claims, BLOCKED, blocking=True)
    assert await bench.deliveries("first, lane, blocked_key, attempt") == [(1, 4, None, 1)]


async def test_what_was_not_started_comes_back_as_one_run_and_what_is_to_be_alone_as_several(bench: Bench) -> None:
    listener_id, claims = await claimed(bench, size=6)
    await bench.settle(listener_id, claims, RELEASED, DONE, RELEASED, ALONE, ALONE, DONE)
    assert await bench.deliveries("first, last, events, positions, attempt") == [
        (1, 3, 2, [1, 3], 1),
        (4, 4, 1, None, 1),
        (5, 5, 1, None, 1),
    ]


async def test_a_claim_that_is_not_ours_any_more_is_left_alone_and_the_others_are_settled(bench: Bench) -> None:
    listener_id = await bench.rows.listener("mail", "**")
    await bench.log(1, 2)
    await bench.rows.delivery(listener_id, 1)
    await bench.rows.delivery(listener_id, 2)
    claims = await bench.claim(listener_id)
    await bench.connection.execute("UPDATE pgbus.deliveries SET claim_token = gen_random_uuid() WHERE first = 1")
    assert await bench.settle(listener_id, claims, Dead("no")) == 1
    assert await bench.deliveries() == [(1, 1)]
    assert await bench.fetch("SELECT position FROM pgbus.dead_letters") == [(2,)]
    assert await bench.fetch("SELECT position FROM pgbus.history") == [(2,)]


async def test_a_claim_is_settled_once(bench: Bench) -> None:
    listener_id, claims = await claimed(bench)
    assert await bench.settle(listener_id, claims, DONE) == 1
    assert await bench.settle(listener_id, claims, Retry(1.0, "again")) == 0
    assert await bench.deliveries() == []


# -------------------------------------------------------------------------- leases, locks, and what dead workers leave


async def test_extending_a_lease_names_its_token_and_steps_over_a_locked_row(bench: Bench, other: Bench) -> None:
    listener_id = await bench.rows.listener("mail", "**")
    await bench.log(1, 2, 3)
    for position in (1, 2, 3):
        await bench.rows.delivery(listener_id, position)
    claims = await bench.claim(listener_id, lease=10.0)
    claims[1].token = uuid4()
    async with other.connection.transaction():
        await other.fetch("SELECT id FROM pgbus.deliveries WHERE first = 3 FOR UPDATE")
        async with asyncio.timeout(5):
            kept = await deliveries.extend_leases(bench.store, claims, lease=1000.0)
            ours = await deliveries.find_our_claims(bench.store, claims)
    assert await bench.deliveries("first, lease_expires_at > now() + interval '900 s'") == [
        (1, True),
        (2, False),
        (3, False),
    ]
    assert kept == {claims[0].id}
    assert ours == {claims[0].id, claims[2].id}


async def test_locking_a_delivery_finds_only_our_own_claim(bench: Bench, other: Bench) -> None:
    _, [claim] = await claimed(bench)
    executor = async_executor(other.connection)
    lock = other.store.statement("lock_delivery")
    async with other.connection.transaction():
        assert await executor.fetch(lock, {"delivery_id": claim.id, "claim_token": uuid4()}) == []
        assert len(await executor.fetch(lock, {"delivery_id": claim.id, "claim_token": claim.token})) == 1
        assert await crash(bench) == (0, [])
    assert await crash(bench) != (0, [])


async def crash(bench: Bench, *, lease_floor: float = -math.inf) -> tuple[int, list[int]]:
    """Free the claims of workers, none of whom lives."""
    look = await deliveries.free_claims(bench.store, max_crashes=MAX_CRASHES, lease_floor=lease_floor, batch=100)
    return look.freed, look.listener_ids


async def test_freeing_looks_at_no_lease_below_its_floor(bench: Bench) -> None:
    listener_id, _ = await claimed(bench)
    look = await deliveries.free_claims(
        bench.store, max_crashes=MAX_CRASHES, lease_floor=time.time() + 10 * LEASE, batch=100
    )
    assert look.freed == 0
    await bench.connection.execute("UPDATE pgbus.deliveries SET lease_expires_at = clock_timestamp()")
    assert await crash(bench, lease_floor=look.looked_at) == (1, [listener_id])


async def test_the_claims_of_a_live_worker_with_a_lease_stay(bench: Bench, other: Bench) -> None:
    listener_id = await bench.rows.listener("mail", "**")
    await bench.log(1)
    await bench.rows.delivery(listener_id, 1)
    worker_id = await other.rows.worker("alive")
    await bench.claim(listener_id, worker_id=worker_id)
    assert await crash(bench) == (0, [])
    await bench.connection.execute("UPDATE pgbus.deliveries SET lease_expires_at = now() - interval '1 s'")
    assert await crash(bench) == (1, [listener_id])


async def test_a_workers_lock_in_another_namespace_does_not_count(bench: Bench, other: Bench) -> None:
    await claimed(bench)
    await other.connection.execute("SELECT pg_advisory_lock(hashtext('elsewhere.worker'), 1)")
    assert (await crash(bench))[0] == 1


async def test_after_the_first_crash_a_run_comes_back_whole_and_after_the_second_in_single_events(bench: Bench) -> None:
    listener_id = await bench.rows.listener("mail", "**")
    await bench.log(*range(1, 6))
    await bench.rows.delivery(listener_id, 1, 5, positions=[1, 3, 5])
    await bench.claim(listener_id)
    assert await crash(bench) == (1, [listener_id])
    assert await bench.deliveries("first, last, events, crashes, attempt, claim_token") == [(1, 5, 3, 1, 1, None)]
    await bench.claim(listener_id)
    assert await crash(bench) == (1, [listener_id])
    assert await bench.deliveries("first, last, positions, crashes") == [
        (1, 1, None, 2),
        (3, 3, None, 2),
        (5, 5, None, 2),
    ]


async def test_the_fifth_crash_with_an_event_alone_makes_it_a_dead_letter_and_the_history_says_so(bench: Bench) -> None:
    listener_id, _ = await claimed(bench, attempt=2, lane=4)
    for number in range(1, MAX_CRASHES):
        assert await crash(bench) == (1, [listener_id])
        assert await bench.deliveries("crashes, lane, attempt") == [(number, 4, 2)]
        await bench.claim(listener_id, lanes=LANES)
    await bench.rows.worker("doomed", live=False)
    await crash(bench)
    assert await bench.deliveries() == []
    assert await bench.fetch("SELECT position, lane, attempts, error, worker, blocked_key FROM pgbus.dead_letters") == [
        (1, 4, 2, "the worker died 5 times while it handled this event", "doomed", None)
    ]
    assert await bench.fetch("SELECT outcome, attempt FROM pgbus.history") == [("dead", 2)]


async def test_an_event_that_killed_its_workers_blocks_its_key_if_the_listener_blocks(bench: Bench) -> None:
    await claimed(bench, lane=4)
    await bench.connection.execute('UPDATE pgbus.listeners SET options = \'{"on_poison": "block"}\'')
    await bench.connection.execute("UPDATE pgbus.deliveries SET crashes = 4")
    await crash(bench)
    assert await bench.fetch("SELECT blocked_key FROM pgbus.dead_letters") == [("k",)]


async def test_freeing_claims_tells_the_workers(bench: Bench, other: Bench) -> None:
    heard: list[str] = []
    await other.connection.add_listener("pgbus_work", lambda *args: heard.append(args[3]))
    await crash(bench)
    await claimed(bench)
    await crash(bench)
    await eventually(lambda: heard)
    assert heard == ["reload"]


async def test_claims_that_their_living_worker_does_not_know_of_come_back_without_a_crash(bench: Bench) -> None:
    listener_id = await bench.rows.listener("mail", "**")
    await bench.log(1, 2, 3)
    tokens: list[UUID] = []
    for position, worker_id in ((1, 7), (2, 7), (3, 8)):
        await bench.rows.delivery(listener_id, position)
        [claim] = await bench.claim(listener_id, worker_id=worker_id)
        tokens.append(claim.token)
    assert await deliveries.find_own_claims(bench.store, worker_id=7) == set(tokens[:2])
    await deliveries.return_claims(bench.store, [tokens[0], tokens[2]], worker_id=7)
    assert await bench.deliveries("first, claim_token, crashes") == [(1, None, 0), (2, tokens[1], 0), (3, tokens[2], 0)]


# ------------------------------------------------------------------------------------------- listeners and workers


async def register(bench: Bench, **values: Any) -> Any:
    defaults: dict[str, Any] = {
        "listener_name": "mail", "lanes": None, "options": "{}", "service": "shop", "start_position": None,
        "start_at": None,
    }  # fmt: skip
    return await listeners.register_listener(bench.store, **{**defaults, **values})


async def test_registering_makes_a_listener_once_and_leaves_its_options_to_a_statement_of_their_own(
    bench: Bench,
) -> None:
    first = await register(bench, options='{"a": 1}')
    assert (first.is_new, first.old_options) == (True, None)
    second = await register(bench, options='{"a": 2}', lanes=64, service="new")
    assert (second.id, second.is_new, second.old_options) == (first.id, False, '{"a": 1}')
    assert await bench.fetch("SELECT lanes, options, service FROM pgbus.listeners") == [(None, '{"a": 1}', "shop")]
    await listeners.set_listener_options(bench.store, listener_id=first.id, options='{"a": 2}', lanes=64, service="new")
    assert await bench.fetch("SELECT lanes, options, service, state FROM pgbus.listeners") == [
        (64, '{"a": 2}', "new", "active")
    ]


async def test_only_a_new_listener_or_schedule_takes_an_id(bench: Bench) -> None:
    schedule = {"rule": "every 60 s", "missed": "once", "service": "", "run_immediately": False}
    for table, names in (("listeners", ("first", "first", "first", "second")), ("schedules", ("a", "a", "a", "b"))):
        for name in names:
            if table == "listeners":
                await register(bench, listener_name=name)
            else:
                await bench.store.fetch("register_schedule", schedule_name=name, **schedule)
        assert await bench.fetch(f"SELECT id FROM pgbus.{table} ORDER BY id") == [(1,), (2,)]


async def test_replacing_subscriptions_tells_what_was_added_and_what_was_removed(bench: Bench) -> None:
    mail = await register(bench)
    first = await listeners.replace_subscriptions(bench.store, listener_id=mail.id, patterns=["a.b"])
    assert (first.added, first.removed) == (("a.b",), ())
    second = await listeners.replace_subscriptions(bench.store, listener_id=mail.id, patterns=["x.*"])
    assert (second.added, second.removed) == (("x.*",), ("a.b",))


async def test_registering_again_moves_no_cursor_and_ends_no_pause(bench: Bench) -> None:
    await register(bench, start_position=5)
    await bench.connection.execute("UPDATE pgbus.listeners SET state = 'paused', cursor = 9")
    await register(bench, start_position=0)
    assert await bench.fetch("SELECT state, cursor FROM pgbus.listeners") == [("paused", 9)]


async def test_an_instant_becomes_the_position_of_the_next_event_or_the_end_of_the_log(bench: Bench) -> None:
    now = datetime.now(UTC)
    await register(bench, listener_name="empty", start_at=now)
    await bench.log(3, logged_at=now - timedelta(hours=2))
    await bench.log(4, logged_at=now)
    await register(bench, listener_name="between", start_at=now - timedelta(hours=1))
    await register(bench, listener_name="after", start_at=now + timedelta(hours=1))
    assert await bench.fetch("SELECT listener_name, cursor FROM pgbus.listeners ORDER BY id") == [
        ("empty", 0),
        ("between", 4),
        ("after", 5),
    ]


async def test_workers_that_register_one_listener_at_once_get_one_row(database: str, connect: Connect) -> None:
    sessions = [Bench(await connect(database)) for _ in range(5)]
    found = await asyncio.gather(*(register(session) for session in sessions))
    assert len({registration.id for registration in found}) == 1
    assert await sessions[0].fetch("SELECT count(*) FROM pgbus.listeners") == [(1,)]


async def test_a_worker_is_registered_locked_counted_touched_and_removed(bench: Bench, other: Bench) -> None:
    worker: dict[str, Any] = {
        "name": "w",
        "service": "s",
        "home": None,
        "host": "h",
        "pid": 1,
        "version": "0",
        "listeners": ["mail"],
    }
    mine = await listeners.register_worker(bench.store, **worker)
    theirs = await listeners.register_worker(other.store, **worker)
    assert await listeners.lock_worker(bench.store, worker_id=mine)
    assert not await listeners.lock_worker(other.store, worker_id=mine)
    listener_id = await bench.rows.listener("mail", "**")
    touch: dict[str, Any] = {
        "worker_id": mine,
        "listener_ids": [listener_id],
        "listeners": ["mail", "other"],
        "failures": {"listener mail": "TypeError: odd"},
    }
    assert await listeners.touch_worker(bench.store, **touch) == 0
    await listeners.lock_worker(other.store, worker_id=theirs)
    await bench.connection.execute(
        "UPDATE pgbus.workers SET last_seen_at = 'epoch'; UPDATE pgbus.listeners SET last_seen_at = 'epoch'"
    )
    assert await listeners.touch_worker(bench.store, **touch) == 1
    seen = "SELECT last_seen_at > now() - interval '1 minute', listeners, failures FROM pgbus.workers ORDER BY id"
    assert await bench.fetch(seen) == [
        (True, ["mail", "other"], '{"listener mail": "TypeError: odd"}'),
        (False, ["mail"], "{}"),
    ]
    assert await bench.fetch("SELECT last_seen_at > 'epoch' FROM pgbus.listeners") == [(True,)]
    await listeners.remove_worker(bench.store, worker_id=mine)
    assert await bench.fetch("SELECT id FROM pgbus.workers") == [(theirs,)]


async def test_touching_a_worker_waits_for_nobody_who_touches_the_same_listeners(bench: Bench, other: Bench) -> None:
    worker: dict[str, Any] = {
        "name": "w",
        "service": "s",
        "home": None,
        "host": "h",
        "pid": 1,
        "version": "0",
        "listeners": ["a", "b"],
    }
    mine = await listeners.register_worker(bench.store, **worker)
    ids = [await bench.rows.listener(name, "**") for name in ("a", "b")]
    for id_ in ids:
        declaration: dict[str, Any] = {
            "listener_id": id_,
            "service": "s",
            "patterns": ["**"],
            "options": "{}",
            "worker_id": mine,
        }
        await listeners.note_declaration(bench.store, **declaration)
    await bench.connection.execute(
        "UPDATE pgbus.listeners SET last_seen_at = 'epoch'; UPDATE pgbus.declarations SET last_seen_at = 'epoch'"
    )
    async with other.connection.transaction(), asyncio.timeout(5):
        await other.connection.execute("SELECT FROM pgbus.listeners WHERE id = $1 FOR UPDATE", ids[0])
        await other.connection.execute("SELECT FROM pgbus.declarations WHERE listener_id = $1 FOR UPDATE", ids[1])
        await listeners.touch_worker(bench.store, worker_id=mine, listener_ids=ids, listeners=["a", "b"], failures={})
    old = "last_seen_at < now() - interval '1 minute'"
    assert await bench.fetch(f"SELECT id FROM pgbus.listeners WHERE {old}") == [(ids[0],)]
    assert await bench.fetch(f"SELECT listener_id FROM pgbus.declarations WHERE {old}") == [(ids[1],)]


# ---------------------------------------------------------------------------------------------------- housekeeping


async def test_a_partition_is_opened_once(bench: Bench) -> None:
    assert await maintenance.open_partition(bench.store, number=1)
    assert not await maintenance.open_partition(bench.store, number=1)
    await bench.log(PARTITION_SIZE + 1)


async def test_a_partition_is_as_old_as_its_first_event(bench: Bench) -> None:
    assert await maintenance.find_partition_age(bench.store, number=0) is None
    await bench.log(2, logged_at=datetime.now(UTC) - timedelta(seconds=50))
    await bench.log(1, logged_at=datetime.now(UTC) - timedelta(seconds=100))
    age = await maintenance.find_partition_age(bench.store, number=0)
    assert age is not None
    assert 100 <= age < 160


async def test_a_partition_has_expired_when_its_last_event_is_older_than_the_retention(bench: Bench) -> None:
    for number in (1, 2, 3):
        await maintenance.open_partition(bench.store, number=number)
    now = datetime.now(UTC)
    for position, hours in ((1, 9), (2, 5), (PARTITION_SIZE, 9), (PARTITION_SIZE + 1, 1), (2 * PARTITION_SIZE, 9)):
        await bench.log(position, logged_at=now - timedelta(hours=hours))
    expired = await maintenance.find_expired_partitions(bench.store, current=2, retention=3600.0 * 4)
    assert expired == [0]
    await bench.connection.execute("UPDATE pgbus.partitions SET opened_at = now() - interval '1 day'")
    expired = await maintenance.find_expired_partitions(bench.store, current=4, retention=3600.0 * 4)
    assert expired == [0, 2, 3]


async def test_dedup_keys_are_forgotten_once_they_have_expired_a_batch_at_a_time(bench: Bench) -> None:
    for key, seconds in (("old", -3), ("older", -9), ("new", 60)):
        await bench.connection.execute(
            "INSERT INTO pgbus.dedup_keys VALUES ($1, gen_random_uuid(), now() + $2::int * interval '1 s')",
            key,
            seconds,
        )
    await maintenance.prune_dedup_keys(bench.store, batch=1)
    assert await bench.fetch("SELECT dedup_key FROM pgbus.dedup_keys ORDER BY 1") == [("new",), ("old",)]
    await maintenance.prune_dedup_keys(bench.store, batch=10)
    assert await bench.fetch("SELECT dedup_key FROM pgbus.dedup_keys") == [("new",)]


async def test_workers_that_are_gone_for_long_are_forgotten_but_never_the_leader_itself(bench: Bench) -> None:
    leader = await bench.rows.worker("leader", live=False)
    gone = await bench.rows.worker("gone", live=False)
    recent = await bench.rows.worker("recent", live=False)
    await bench.connection.execute(
        "UPDATE pgbus.workers SET last_seen_at = now() - interval '2 h' WHERE id = ANY($1)", [leader, gone]
    )
    await maintenance.prune_workers(bench.store, worker_ttl=3600.0, worker_id=leader)
    assert await bench.fetch("SELECT id FROM pgbus.workers ORDER BY id") == [(leader,), (recent,)]


async def test_what_waits_in_lanes_that_nobody_looks_at_is_freed_and_its_workers_are_told(
    bench: Bench, other: Bench
) -> None:
    heard: list[str] = []
    await other.connection.add_listener("pgbus_work", lambda *args: heard.append(args[3]))
    unordered, ordered = await bench.rows.listener("unordered", "**"), await bench.rows.listener("o", "**", lanes=64)
    await bench.rows.delivery(unordered, 1, lane=3)
    await bench.rows.delivery(unordered, 2, lane=3, blocked_key="k")
    await bench.rows.delivery(unordered, 3, lane=3, worker_id=1)
    await bench.rows.delivery(ordered, 4, lane=3)
    await maintenance.release_lanes(bench.store, batch=100)
    freed = "SELECT first, lane, blocked_key, available_at IS NOT NULL FROM pgbus.deliveries ORDER BY first"
    assert await bench.fetch(freed) == [
        (1, None, None, True),
        (2, None, None, True),
        (3, 3, None, False),
        (4, 3, None, False),
    ]
    await maintenance.release_lanes(bench.store, batch=100)
    await eventually(lambda: heard)
    assert heard == [str(unordered)]


@pytest.mark.parametrize(
    "call_id",
    [
        UUID(int=0),
        UUID(int=2**128 - 1),
        UUID("f47ac10b-58cc-4372-a567-0e02b2c3d479"),
        UUID("3b241101-e2bb-4255-8caf-4136c566a962"),
    ],
    ids=["nil", "max", "random and high", "random and low"],
)
async def test_a_call_is_pruned_whatever_its_id(bench: Bench, call_id: UUID) -> None:
    insert = """
    INSERT INTO pgbus.rpc_requests (call_id, procedure, arguments, caller, caller_name, requested_at, deadline)
    VALUES ($1, 'a.b', '{}', 'x', 'x', now() - INTERVAL '1 day', now() + $2)
    """
    await bench.connection.execute(insert, call_id, timedelta(hours=-2))
    await bench.connection.execute(
        "INSERT INTO pgbus.rpc_responses (call_id, outcome, error) VALUES ($1, 'lost', '')", call_id
    )
    waiting = uuid4()
    await bench.connection.execute(insert, waiting, timedelta(minutes=1))
    assert (await bench.store.fetch_one("prune_calls", retention=3600.0, batch=100))["calls"] == 1
    assert await bench.fetch("SELECT call_id FROM pgbus.rpc_requests") == [(waiting,)]
    assert await bench.fetch("SELECT * FROM pgbus.rpc_responses") == []
