"""A look of the leader: what moves into the log, and to whom it is then owed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from pgbus.database.statements import maintenance, moving, sequencer
from pgbus.database.store import Store
from pgbus.handlers.outcomes import DONE
from tests.support import eventually
from tests.support.bench import Bench
from tests.support.waiting import PATIENCE


def sent_statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the statements that are sent from here on."""
    sent: list[str] = []
    fetch = Store.fetch

    async def noted(store: Store, name: str, /, **values: object) -> list[Any]:
        sent.append(name)
        return await fetch(store, name, **values)

    monkeypatch.setattr(Store, "fetch", noted)
    return sent


async def test_sequencing_numbers_rows_by_id_and_empties_the_outbox(bench: Bench) -> None:
    await bench.sequence()
    await bench.outbox("a.a", "b.b", "c.c")
    look = await bench.sequence(base=40)
    assert (look.moved, look.has_more) == (3, False)
    assert await bench.fetch("SELECT position, topic FROM pgbus.events ORDER BY position") == [
        (40, "a.a"),
        (41, "b.b"),
        (42, "c.c"),
    ]
    assert await bench.fetch("SELECT * FROM pgbus.outbox") == []


async def test_sequencing_takes_a_batch_and_tells_whether_there_is_more(bench: Bench) -> None:
    await bench.sequence()
    await bench.outbox(*["a.b"] * 5)
    look = await bench.sequence(batch=2)
    assert (look.moved, look.has_more) == (2, True)
    assert (await bench.sequence(batch=2)).has_more
    look = await bench.sequence(batch=2)
    assert (look.moved, look.has_more) == (1, False)


async def test_sequencing_owes_what_matches_by_topic_pattern_or_ancestor(bench: Bench) -> None:
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
    await bench.sequence()
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


async def test_a_scheduled_event_stays_until_it_is_due(bench: Bench) -> None:
    now = datetime.now(UTC)
    await bench.outbox("late.one", deliver_at=now + timedelta(seconds=100))
    await bench.outbox("later.one", deliver_at=now + timedelta(seconds=200))
    await bench.outbox("due.one", deliver_at=now - timedelta(seconds=1))
    look = await bench.sequence()
    assert look.moved == 1
    assert await bench.fetch("SELECT topic FROM pgbus.events") == [("due.one",)]
    assert (await bench.sequence()).moved == 0
    await bench.connection.execute("UPDATE pgbus.outbox SET deliver_at = now() WHERE topic = 'later.one'")
    assert (await bench.sequence()).moved == 0, "the leader knows when the next one is due, and does not ask before"


async def test_an_event_that_is_scheduled_for_the_past_is_logged_by_the_next_look(
    bench: Bench,
) -> None:
    await bench.outbox("at.once")
    assert [(await bench.sequence()).moved for _ in range(2)] == [1, 0]
    await bench.outbox("due.one", deliver_at=datetime.now(UTC) - timedelta(seconds=10))
    look = await bench.sequence()
    assert (look.moved, look.has_more) == (0, True)
    assert (await bench.sequence()).moved == 1


async def test_sequencing_steps_over_a_scheduled_event_that_is_being_cancelled(bench: Bench, other: Bench) -> None:
    await bench.outbox("due.one", deliver_at=datetime.now(UTC) - timedelta(seconds=1))
    async with other.connection.transaction():
        await other.connection.execute("DELETE FROM pgbus.outbox")
        async with asyncio.timeout(PATIENCE):
            assert (await bench.sequence()).moved == 0


async def test_a_look_that_finds_nothing_takes_no_xid(bench: Bench) -> None:
    next_xid = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"
    await bench.outbox("a.b")
    await bench.sequence()

    async def none_was_taken() -> bool:
        before = await bench.fetch(next_xid)
        for _ in range(3):
            await bench.sequence()
        return await bench.fetch(next_xid) == before

    await eventually(none_was_taken)  # sooner or later: autovacuum takes them, too, for all databases of the server


async def test_sequencing_claims_a_lone_event_for_the_idle_listeners_that_hear_it(bench: Bench) -> None:
    idle = await bench.rows.listener("idle", "a.*")
    too = await bench.rows.listener("idle too", "a.b")
    deaf = await bench.rows.listener("deaf", "b.b")
    busy = await bench.rows.listener("busy", "a.*")
    await bench.outbox("a.b", key="k")
    look = await bench.sequence(idle_listener_ids=[idle, too, deaf], worker_id=7)
    assert look.listener_ids == [busy], "the others have nothing left to claim"
    assert sorted(look.handed) == sorted([idle, too])
    token = look.handed[idle].token
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


async def test_sequencing_claims_nothing_for_a_paused_or_ordered_idle_listener(bench: Bench) -> None:
    paused = await bench.rows.listener("paused", "a.b", state="paused")
    ordered = await bench.rows.listener("ordered", "a.b", lanes=4)
    await bench.outbox("a.b")
    look = await bench.sequence(idle_listener_ids=[paused, ordered])
    assert look.handed == {}
    assert await bench.fetch("SELECT claim_token FROM pgbus.deliveries") == [(None,), (None,)]


async def test_sequencing_claims_a_few_events_for_the_idle_listeners_that_hear_them(bench: Bench) -> None:
    idle = await bench.rows.listener("idle", "a.*")
    too = await bench.rows.listener("idle too", "a.b")
    ordered = await bench.rows.listener("ordered", "a.*", lanes=1)
    paused = await bench.rows.listener("paused", "a.*", state="paused")
    busy = await bench.rows.listener("busy", "a.*")
    await bench.outbox("a.b", "a.c", "a.b", "b.b")
    look = await bench.sequence(idle_listener_ids=[idle, too, ordered, paused], worker_id=7)
    assert (look.moved, look.listener_ids) == (4, [ordered, paused, busy])
    assert sorted(await bench.deliveries("listener_id, first, last, events, positions, worker_id")) == [
        (idle, 1, 3, 3, None, 7), (too, 1, 3, 2, [1, 3], 7),
        (ordered, 1, 3, 3, None, None), (paused, 1, 3, 3, None, None), (busy, 1, 3, 3, None, None),
    ]  # fmt: skip
    [claimed] = await bench.claim(busy)
    assert repr(look.handed[idle].events) == repr(claimed.events)
    assert (look.handed[idle].last, look.handed[idle].size) == (claimed.last, claimed.size) == (3, 3)
    assert [event.position for event in look.handed[too].events] == [1, 3]
    assert look.handed[too].events[0] is not look.handed[idle].events[0], "a handler may change its own"
    for listener_id, claim in look.handed.items():
        assert await bench.settle(listener_id, [claim], DONE) == 1


async def keys_of_other_lanes(bench: Bench, count: int) -> list[str]:
    """Keys of the lanes 0, 1 and so on, of four."""
    lanes = await bench.fetch("SELECT (hashtext(n::text) & 2147483647) % 4, n::text FROM generate_series(1, 50) AS n")
    by_lane: dict[int, str] = dict(lanes)
    return [by_lane[lane] for lane in range(count)]


async def test_sequencing_claims_a_few_events_in_the_empty_lanes_of_an_ordered_listener(bench: Bench) -> None:
    ordered = await bench.rows.listener("ordered", "a.*", lanes=4)
    first, second, third = await keys_of_other_lanes(bench, 3)
    for key in (first, second, first, third):
        await bench.outbox("a.b", key=key)
    look = await bench.sequence(empty_lanes={ordered: {0: 0, 1: 0}}, worker_id=7)
    assert (look.moved, look.listener_ids) == (4, [ordered]), "in one lane it has something to claim"
    assert bench.woken_lanes == {ordered: {2}}
    assert sorted(await bench.deliveries("lane, first, last, positions, worker_id")) == [
        (0, 1, 3, [1, 3], 7), (1, 2, 2, None, 7), (2, 4, 4, None, None),
    ]  # fmt: skip
    claims = look.in_lanes[ordered]
    assert [(claim.lane, [event.position for event in claim.events]) for claim in claims] == [(0, [1, 3]), (1, [2])]
    for claim in claims:
        assert await bench.settle(ordered, [claim], *[DONE] * claim.size) == 1


@pytest.mark.parametrize("state", ["waiting", "claimed", "come back", "come back and claimed", "due later"])
async def test_sequencing_claims_nothing_in_a_lane_that_only_a_worker_takes_for_empty(bench: Bench, state: str) -> None:
    ordered = await bench.rows.listener("ordered", "a.*", lanes=4)
    first, second = await keys_of_other_lanes(bench, 2)
    await bench.log(1)
    is_claimed = state.endswith("claimed")
    row = await bench.rows.delivery(ordered, 1, lane=0, worker_id=3 if is_claimed else None)
    if state not in {"waiting", "claimed"}:
        due = "now() + interval '1 hour'" if state == "due later" else "now()"
        await bench.connection.execute(f"UPDATE pgbus.deliveries SET available_at = {due} WHERE id = $1", row)
    floor = 0 if state in {"waiting", "claimed"} else 2
    for key in (first, second):
        await bench.outbox("a.b", key=key)
    look = await bench.sequence(base=2, empty_lanes={ordered: {0: floor, 1: floor}}, worker_id=7)
    assert [claim.lane for claim in look.in_lanes[ordered]] == [1]
    assert bench.woken_lanes == {ordered: {0}}


async def test_sequencing_claims_nothing_in_a_lane_in_which_someone_else_claims(bench: Bench, other: Bench) -> None:
    ordered = await bench.rows.listener("ordered", "a.*", lanes=4)
    first, second = await keys_of_other_lanes(bench, 2)
    for key in (first, second):
        await bench.outbox("a.b", key=key)
    async with other.connection.transaction():
        assert await other.fetch("SELECT pgbus.take_lane($1, 0::smallint, 0)", ordered) == [(True,)]
        look = await bench.sequence(empty_lanes={ordered: {0: 0, 1: 0}})
    assert [claim.lane for claim in look.in_lanes[ordered]] == [1]


async def test_a_few_events_are_left_to_all_where_other_workers_live(bench: Bench) -> None:
    idle = await bench.rows.listener("idle", "a.b")
    await bench.outbox("a.b", "a.b")
    look = await bench.sequence(idle_listener_ids=[idle], tells_others=True)
    assert (look.listener_ids, look.handed) == ([idle], {})


async def test_more_events_than_a_run_has_are_claimed_for_nobody(bench: Bench) -> None:
    idle = await bench.rows.listener("idle", "a.b")
    await bench.outbox(*["a.b"] * 11)
    look = await bench.sequence(idle_listener_ids=[idle])
    assert (look.listener_ids, look.handed) == ([idle], {})


async def test_a_claim_of_an_event_that_someone_deleted_is_handed_to_nobody(bench: Bench) -> None:
    idle = await bench.rows.listener("idle", "a.b")
    whole = await bench.rows.listener("whole", "a.c")
    await bench.outbox("a.b", "a.b", "a.c")
    deliveries = [moving.Delivery(idle, None, 1, 2, 2, None), moving.Delivery(whole, None, 3, 3, 1, None)]
    await bench.connection.execute("DELETE FROM pgbus.route_changes; DELETE FROM pgbus.outbox WHERE id = 2")
    offer = moving.Offer([idle, whole], uuid4(), worker_id=7, lease=60.0)
    logged = await moving.log_events(bench.store, ids=[1, 2, 3], base=1, deliveries=deliveries, offer=offer, wakes=[])
    assert logged
    assert (logged.moved, list(logged.handed)) == (2, [whole])


async def test_after_a_sleep_an_event_of_known_topics_is_read_and_logged_by_one_statement(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = await bench.rows.listener("idle", "a.*")
    ordered = await bench.rows.listener("ordered", "parent.b", lanes=8)
    insert = "INSERT INTO pgbus.outbox (topic, ancestors, key) VALUES ('a.b', ARRAY['parent.b'], 'k')"
    await bench.connection.execute(insert)
    await bench.sequence(idle_listener_ids=[idle])
    await bench.sequence()
    sent = sent_statements(monkeypatch)
    await bench.connection.execute(insert)
    look = await bench.sequence(idle_listener_ids=[idle, ordered], worker_id=7, expects_one=True)
    assert sent == ["read_and_log_event"]
    assert (look.moved, look.listener_ids) == (1, [ordered])
    first, second = await bench.fetch(
        "SELECT topic, ancestors, key, payload, position, event_id, published_at FROM pgbus.events ORDER BY position"
    )
    assert first[:4] == second[:4] == ("a.b", ["parent.b"], "k", "{}")
    before, after = [
        await bench.fetch(
            "SELECT listener_id, lane, last, events, attempt, claim_token IS NOT NULL, worker_id FROM pgbus.deliveries "
            "WHERE first = $1 ORDER BY listener_id",
            position,
        )
        for position in (1, 2)
    ]
    assert [row[:2] for row in before] == [row[:2] for row in after], "an ordered listener finds the key's lane"
    assert [tuple(row[2:]) for row in after] == [(2, 1, 1, True, 7), (2, 1, 1, False, None)]
    claim = look.handed[idle]
    [event] = claim.events
    assert (event.position, event.event_id, event.published_at) == second[4:]
    assert await bench.settle(idle, [claim], DONE) == 1


async def test_after_a_sleep_what_was_not_guessed_is_logged_as_ever(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = await bench.rows.listener("idle", "**")
    await bench.outbox("a.b")
    await bench.sequence()
    await bench.sequence()
    sent = sent_statements(monkeypatch)
    await bench.outbox("a.b", "a.b")
    assert (await bench.sequence(idle_listener_ids=[idle], expects_one=True)).moved == 2
    await bench.outbox("b.b")
    assert list((await bench.sequence(idle_listener_ids=[idle], expects_one=True)).handed) == [idle]
    await bench.outbox("a.b", deliver_at=datetime.now(UTC) + timedelta(seconds=100))
    assert (await bench.sequence(expects_one=True)).moved == 0
    assert (await bench.sequence(expects_one=True)).moved == 0
    assert sent == [
        "read_and_log_event", "log_events", "read_and_log_event", "log_event",
        "read_and_log_event", "find_next_due", "read_and_log_event",
    ]  # fmt: skip
    assert await bench.fetch("SELECT position, topic FROM pgbus.events ORDER BY 1") == [
        (1, "a.b"), (2, "a.b"), (3, "a.b"), (4, "b.b"),
    ]  # fmt: skip


async def test_after_a_sleep_an_event_is_owed_to_who_registered_in_it(bench: Bench) -> None:
    await bench.outbox("a.b")
    await bench.sequence()
    late = await bench.rows.listener("late", "a.b")
    await bench.outbox("a.b")
    look = await bench.sequence(idle_listener_ids=[late], expects_one=True)
    assert list(look.handed) == [late]
    assert await bench.deliveries("listener_id, first") == [(late, 2)]


async def test_after_a_sleep_a_row_that_someone_holds_locked_is_stepped_over(bench: Bench, other: Bench) -> None:
    await bench.connection.execute("SET lock_timeout = '100ms'")
    await bench.outbox("a.b")
    await bench.sequence()
    await bench.outbox("a.b")
    async with other.connection.transaction():
        await other.fetch("SELECT id FROM pgbus.outbox FOR UPDATE")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await bench.sequence(expects_one=True)
        with pytest.raises(asyncpg.LockNotAvailableError):
            await bench.sequence()
        await bench.find_locked()
        await bench.outbox("a.c")
        assert (await bench.sequence()).moved == 1
    assert (await bench.sequence(expects_one=True)).moved == 1
    assert await bench.fetch("SELECT position, topic FROM pgbus.events ORDER BY 1") == [
        (1, "a.b"),
        (2, "a.c"),
        (3, "a.b"),
    ]


async def test_after_a_sleep_others_are_told_of_what_was_not_handed_over(bench: Bench, other: Bench) -> None:
    idle, busy = await bench.rows.listener("idle", "**"), await bench.rows.listener("busy", "**")
    heard: list[str] = []
    await other.connection.add_listener("pgbus_work", lambda *args: heard.append(args[3]))
    await bench.outbox("a.b")
    await bench.sequence()
    await bench.outbox("a.b")
    await bench.sequence(idle_listener_ids=[idle], expects_one=True, tells_others=True)
    await eventually(lambda: heard)
    assert heard == [str(busy)]


async def test_sequencing_notifies_others_only_if_there_are_any(bench: Bench, other: Bench) -> None:
    listener_id = await bench.rows.listener("mail", "**")
    heard: list[str] = []
    await other.connection.add_listener("pgbus_work", lambda *args: heard.append(args[3]))
    await bench.outbox("a.b")
    await bench.sequence()
    await bench.outbox("a.b")
    await bench.sequence(tells_others=True)
    await eventually(lambda: heard)
    assert heard == [str(listener_id)]


async def test_sequencing_orders_scheduled_events_by_due_instant_then_id(bench: Bench) -> None:
    now = datetime.now(UTC)
    await bench.outbox("at.once", "at.once.too")
    for topic, age in (("third", 1), ("first", 3), ("second", 2), ("third.too", 1)):
        await bench.outbox(topic, deliver_at=now - timedelta(seconds=age))
    await bench.sequence()
    assert await bench.fetch("SELECT topic FROM pgbus.events ORDER BY position") == [
        ("first",), ("second",), ("third",), ("third.too",), ("at.once",), ("at.once.too",)
    ]  # fmt: skip


async def test_a_look_takes_no_more_bytes_than_it_may_but_one_row_anyhow(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgbus.leader.mover.BATCH_BYTES", 20_000)
    noise = "(SELECT jsonb_agg(md5(random()::text || n)) FROM generate_series(1, 500) AS n)"
    await bench.connection.execute(
        f"INSERT INTO pgbus.outbox (topic, payload, deliver_at) VALUES ('a', {noise}, NULL), ('b', {noise}, NULL), "
        f"('c', {noise}, now()), ('d', {noise}, now())"
    )
    looks = [await bench.sequence() for _ in range(4)]
    assert [(look.moved, look.has_more) for look in looks] == [(2, True), (2, True), (0, False), (0, False)]
    assert await bench.fetch("SELECT topic FROM pgbus.events ORDER BY position") == [("c",), ("a",), ("d",), ("b",)]


async def test_rows_that_someone_holds_locked_are_found_and_stepped_over(bench: Bench, other: Bench) -> None:
    await bench.connection.execute("SET lock_timeout = '100ms'")
    await bench.sequence()
    await bench.outbox("a.a", "b.b", "c.c")
    ids = [row[0] for row in await bench.fetch("SELECT id FROM pgbus.outbox ORDER BY id")]
    assert await sequencer.find_locked_events(bench.store, ids) == set()
    async with other.connection.transaction():
        await other.fetch("SELECT id FROM pgbus.outbox WHERE id = $1 FOR UPDATE", ids[1])
        with pytest.raises(asyncpg.LockNotAvailableError):
            await bench.sequence()
        await bench.find_locked()
        look = await bench.sequence()
        assert (look.moved, look.has_more) == (2, False)
        assert (await bench.sequence()).moved == 0
    assert (await bench.sequence()).moved == 1
    assert await bench.fetch("SELECT topic FROM pgbus.events ORDER BY position") == [("a.a",), ("c.c",), ("b.b",)]


async def test_a_row_that_someone_deletes_while_it_is_locked_is_forgotten(bench: Bench, other: Bench) -> None:
    await bench.connection.execute("SET lock_timeout = '100ms'")
    await bench.outbox("a.a", "b.b")
    async with other.connection.transaction():
        await other.fetch("DELETE FROM pgbus.outbox WHERE topic = 'a.a'")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await bench.sequence()
        await bench.find_locked()
        assert (await bench.sequence()).moved == 1
    assert (await bench.sequence()).moved == 0
    assert not bench.is_stepping_over


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
    await bench.sequence(tells_others=True)
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
