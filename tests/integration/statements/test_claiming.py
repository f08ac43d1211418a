"""`claim_deliveries`: which runs a worker may take, how many events, and what blocks a lane."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from pgbus.database.statements import deliveries
from pgbus.database.statements.deliveries import Claimed
from pgbus.handlers.outcomes import DONE, Retry
from pgbus.listeners.listener import LANES
from tests.support import eventually
from tests.support.bench import Bench, positions
from tests.support.waiting import PATIENCE


async def test_a_claim_takes_whole_runs_and_returns_events_in_log_order(bench: Bench) -> None:
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


async def wait_in_a_lane(bench: Bench, *, comes_back: bool) -> int:
    """An ordered listener with an event that waits in lane 5, written by the sequencer or come back."""
    listener_id = await bench.rows.listener("ordered", "**", lanes=LANES)
    await bench.log(1, 2)
    await bench.rows.delivery(listener_id, 2, lane=5)
    if comes_back:
        await bench.connection.execute("UPDATE pgbus.deliveries SET available_at = now()")
    return listener_id


@pytest.mark.parametrize(("comes_back", "lean"), [(False, False), (True, False), (False, True)])
async def test_of_two_that_claim_in_a_lane_at_the_same_moment_one_gets_nothing(
    bench: Bench, other: Bench, comes_back: bool, lean: bool
) -> None:
    listener_id = await wait_in_a_lane(bench, comes_back=comes_back)
    async with other.connection.transaction():
        [claim] = await other.claim(listener_id, lanes=LANES, lean=lean)
        await bench.rows.delivery(listener_id, 1, lane=5)
        assert await bench.claim(listener_id, lanes=LANES, lean=lean) == [], "the other one has the lane until it ends"
    assert await bench.claim(listener_id, lanes=LANES, lean=lean) == [], "its claim is in the lane"
    await bench.settle(listener_id, [claim], DONE)
    assert positions(await bench.claim(listener_id, lanes=LANES, lean=lean)) == [[1]]


@pytest.mark.parametrize("comes_back", [False, True])
async def test_a_claim_that_was_committed_after_a_snapshot_holds_the_lane_against_it(
    bench: Bench, other: Bench, comes_back: bool
) -> None:
    """The statement that claims may have begun before: the lane is looked at by a later snapshot than its own."""
    listener_id = await wait_in_a_lane(bench, comes_back=comes_back)
    # Two selects of one statement have one snapshot; the first waits until the other session has claimed.
    await other.fetch("SELECT pg_advisory_lock(1)")
    late = asyncio.create_task(
        bench.fetch(
            "SELECT pg_advisory_lock(1) IS NULL, (SELECT count(claim_token) FROM pgbus.deliveries), "
            "pgbus.take_lane($1, 5::smallint, 0)",
            listener_id,
        )
    )
    await eventually(lambda: other.fetch("SELECT FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"))
    assert positions(await other.claim(listener_id, lanes=LANES)) == [[2]]
    await other.fetch("SELECT pg_advisory_unlock(1)")
    assert await late == [(False, 0, False)]


async def test_events_missing_from_the_log_leave_the_claim_and_are_noted_in_history(bench: Bench) -> None:
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
    told = await bench.fetch("SELECT position, outcome, worker, error FROM pgbus.attempts ORDER BY position")
    # There is no partition for the last.
    assert told == [(position, "skipped", "w", "the event is no longer in the log") for position in (2, 4, 7)]
    assert await bench.deliveries("first, last, events, positions, claim_token") == [
        (1, 3, 2, [1, 3], token),
        (5, 6, 2, None, token),
    ]


@pytest.mark.parametrize("lean", [False, True])
async def test_a_blocked_event_is_no_head_and_its_key_is_told_for_later_ones(bench: Bench, lean: bool) -> None:
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
    [claim] = await bench.claim(listener_id, lanes=LANES, blocking=True, lean=lean)
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

    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(drain(bench), drain(other))
    assert sorted(position or 0 for position in found) == list(range(1, 101))


@pytest.mark.parametrize("lean", [False, True])
async def test_two_sessions_never_hold_one_lane_at_once(bench: Bench, other: Bench, lean: bool) -> None:
    listener_id = await bench.rows.listener("ordered", "**", lanes=2)
    await bench.log(*range(1, 61))
    for position in range(1, 61, 3):
        await bench.rows.delivery(listener_id, position, position + 2, lane=position % 2)
    held: set[int | None] = set()
    seen: dict[int | None, list[int]] = {0: [], 1: []}

    async def drain(session: Bench) -> None:
        while sum(map(len, seen.values())) < 60:
            for claim in await session.claim(listener_id, lanes=2, piece=3 if lean else 2, lean=lean):
                assert claim.lane not in held
                held.add(claim.lane)
                seen[claim.lane].extend(event.position or 0 for event in claim.events)
                await asyncio.sleep(0)
                held.remove(claim.lane)
                await session.settle(listener_id, [claim], *[DONE] * len(claim.events))

    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(drain(bench), drain(other))
    assert all(numbers == sorted(numbers) for numbers in seen.values())


async def test_a_claim_tells_the_first_row_of_each_lane_also_when_it_takes_none(bench: Bench) -> None:
    listener_id = await bench.rows.listener("ordered", "**", lanes=4)
    await bench.log(*range(1, 10))
    for position in range(1, 7):
        await bench.rows.delivery(listener_id, position, lane=position % 3)
    for claimed in ([[1], [2], [3]], []):
        look = await bench.look(listener_id, lane_floors=[0] * 4)
        assert look.tops == {0: 3, 1: 1, 2: 2}
        assert positions(look.claims) == claimed


async def test_what_comes_back_to_a_lane_below_its_floor_is_its_head(bench: Bench) -> None:
    listener_id = await bench.rows.listener("ordered", "**", lanes=2)
    await bench.log(*range(1, 10))
    for position in (1, 2, 3):
        await bench.rows.delivery(listener_id, position, lane=0)
    first = await bench.look(listener_id, lane_floors=[0, 0])
    assert await bench.settle(listener_id, first.claims, DONE) == 1
    second = await bench.look(listener_id, lane_floors=[2, 2])
    assert positions(second.claims) == [[2]]
    third = await bench.look(listener_id, lane_floors=[2, 2])
    assert (third.claims, third.tops) == ([], {0: 2})  # claimed, and so the floor stays
    assert await bench.settle(listener_id, second.claims, Retry(0.0, "again")) == 1
    again = await bench.look(listener_id, lane_floors=[3, 3])
    assert positions(again.claims) == [[2]]


# ------------------------------------------------------------------------------------------------------ the lean claim


async def prepare_anything(bench: Bench, listener_id: int, chance: random.Random, *, lanes: int | None = None) -> None:
    """Deliveries as a listener without order may have them, or one with some lanes."""
    position = 1
    while position < 40:
        last = min(40, position + chance.choice([0, 0, 0, 1, 5]))
        listed = sorted({position, last, chance.randint(position, last)})
        state = chance.choice(["ready"] * 6 + ["claimed", "due", "later", "left", "suspect"])
        delivery_id = await bench.rows.delivery(
            listener_id,
            position,
            last,
            positions=listed if len(listed) <= last - position else None,
            worker_id=1 if state == "claimed" else None,
            lane=chance.randrange(lanes) if lanes else None,
        )
        if state in {"due", "later", "left", "suspect"}:
            await bench.connection.execute(
                "UPDATE pgbus.deliveries SET available_at = now() + $2::integer * interval '1 hour', "
                "left_topic = $3, crashes = $4 WHERE id = $1",
                delivery_id,
                1 if state == "later" else -1,
                "orders.placed" if state == "left" else None,
                2 if state == "suspect" else 0,
            )
        position = last + 1 + chance.choice([0, 0, 2])


LEFT = "first, last, events, positions, lane, claim_token, available_at"


async def compare(
    bench: Bench, terms: deliveries.ClaimTerms, claim: Callable[..., Awaitable[Claimed | None]]
) -> Claimed | None:
    """A lean claim takes what the full one would; None: nothing, as something is due, or has to be cut."""

    async def carry_out(claiming: Awaitable[Claimed | None]) -> tuple[Claimed | None, Any]:
        transaction = bench.connection.transaction()
        await transaction.start()
        claimed = await claiming
        rows = await bench.deliveries(LEFT)
        await transaction.rollback()
        return claimed, rows

    before = await bench.deliveries(LEFT)
    lean, after_lean = await carry_out(claim(bench.store, terms))
    looked, after_full = await carry_out(deliveries.claim_deliveries(bench.store, terms))
    assert looked
    full = looked.claims
    if lean is None:
        assert after_lean == before
        assert (
            any(not one.fresh for one in full)
            or len(after_full) > len(before)
            or sum(one.size for one in full) == terms.limit
            or not full
            # In a lane in which a later row is claimed, the full one would not take it.
            or await bench.fetch("SELECT FROM pgbus.deliveries WHERE lane IS NOT NULL AND available_at <= now()")
        )
        return None
    assert positions(lean.claims) == positions(full)
    assert after_lean == after_full
    assert [dataclasses.replace(one, id=0, events=[]) for one in lean.claims] == [
        dataclasses.replace(one, id=0, events=[], claimed_at=two.claimed_at)
        for one, two in zip(full, lean.claims, strict=True)
    ]
    assert all(lean.tops[lane] <= top for lane, top in looked.tops.items())
    return lean


@pytest.mark.parametrize("seed", range(40))
async def test_the_lean_claim_takes_what_the_full_one_would_or_nothing(bench: Bench, seed: int) -> None:
    chance = random.Random(seed)
    listener_id = await bench.rows.listener("mail", "**", state=chance.choice(["active"] * 9 + ["paused"]))
    await bench.log(*range(1, 41))
    if seed % 8:
        await prepare_anything(bench, listener_id, chance)
    if seed % 3:
        await bench.connection.execute("DELETE FROM pgbus.deliveries WHERE available_at < now()")
    terms = deliveries.ClaimTerms(
        token=uuid4(),
        listener_id=listener_id,
        worker_id=1,
        floor=chance.choice([0, 0, 10]),
        rows=chance.choice([2, 100]),
        limit=chance.choice([3, 100]),
        piece=chance.choice([2, 100]),
        lease=60.0,
        left_topics=chance.choice([[], ["orders.placed"]]),
    )
    await compare(bench, terms, deliveries.claim_ready)


@pytest.mark.parametrize("seed", range(60))
async def test_the_lean_claim_of_lanes_takes_what_the_full_one_would_or_nothing(bench: Bench, seed: int) -> None:
    chance = random.Random(seed)
    state = chance.choice(["active"] * 9 + ["paused"])
    listener_id = await bench.rows.listener("mail", "**", lanes=8, state=state)
    await bench.log(*range(1, 41))
    if seed % 8:
        await prepare_anything(bench, listener_id, chance, lanes=8)
    if seed % 3:
        await bench.connection.execute("DELETE FROM pgbus.deliveries WHERE available_at < now()")
    # Below a floor there is only what has come back, or is claimed.
    floors = [
        chance.choice([0, first or 0])
        for (first,) in await bench.fetch(
            "SELECT (SELECT min(first) FROM pgbus.deliveries AS d WHERE d.lane = n AND d.available_at IS NULL) "
            "FROM generate_series(0, 7) AS n ORDER BY n"
        )
    ]
    terms = deliveries.ClaimTerms(
        token=uuid4(),
        listener_id=listener_id,
        worker_id=1,
        lane_floors=floors,
        lanes=range(8),
        rows=chance.choice([2, 100]),
        limit=chance.choice([3, 100]),
        piece=chance.choice([2, 100]),
        lease=60.0,
        blocking=chance.choice([True, False]),
        left_topics=chance.choice([[], ["orders.placed"]]),
    )
    if lean := await compare(bench, terms, deliveries.claim_lanes):
        taken = {claim.events[0].position for claim in lean.claims}
        waiting = {lane for lane, first in await bench.deliveries("lane, first") if first not in taken}
        assert set(lean.left) == (waiting if state == "active" else set())


async def test_a_lean_claim_looks_into_the_lanes_that_are_named_and_into_no_other(bench: Bench) -> None:
    listener_id = await bench.rows.listener("ordered", "**", lanes=4)
    await bench.log(*range(1, 10))
    for position in range(1, 7):
        await bench.rows.delivery(listener_id, position, lane=position % 3)
    terms = deliveries.ClaimTerms(
        token=uuid4(), listener_id=listener_id, worker_id=1, rows=9, limit=9, piece=9, lease=60.0, lane_floors=[0] * 4
    )

    async def look(*lanes: int) -> Claimed:
        claimed = await deliveries.claim_lanes(bench.store, msgspec.structs.replace(terms, lanes=lanes))
        assert claimed
        return claimed

    first = await look(1, 3)
    assert (positions(first.claims), first.looked, first.tops, first.left) == ([[1]], (1, 3), {1: 1}, {1})
    again = await look(1)
    assert (again.claims, again.tops, again.left) == ([], {1: 1}, {1}), "what is claimed holds the lane"
    assert await bench.settle(listener_id, first.claims, DONE) == 1
    last = await look(1, 2)
    assert (positions(last.claims), last.tops, last.left) == ([[2], [4]], {1: 4, 2: 2}, {2}), "4 was the last one"


async def test_the_lean_claim_takes_nothing_when_something_is_due_or_too_long(bench: Bench) -> None:
    listener_id = await bench.rows.listener("mail", "**")
    await bench.log(*range(1, 9))
    terms = deliveries.ClaimTerms(
        token=uuid4(), listener_id=listener_id, worker_id=1, rows=10, limit=5, piece=3, lease=60.0
    )
    six = msgspec.structs.replace(terms, limit=6)
    assert await deliveries.claim_ready(bench.store, terms) == Claimed([])
    await bench.rows.delivery(listener_id, 1, 3)
    await bench.rows.delivery(listener_id, 4, 6)
    assert await deliveries.claim_ready(bench.store, terms) is None, "six are more than five"
    assert await deliveries.claim_ready(bench.store, msgspec.structs.replace(six, piece=2)) is None, "a run is cut"
    due = await bench.rows.delivery(listener_id, 7)
    await bench.connection.execute("UPDATE pgbus.deliveries SET available_at = now() WHERE id = $1", due)
    assert await deliveries.claim_ready(bench.store, six) is None, "something is due"
    await bench.connection.execute("DELETE FROM pgbus.deliveries WHERE id = $1", due)
    claimed = await deliveries.claim_ready(bench.store, six)
    assert claimed
    assert positions(claimed.claims) == [[1, 2, 3], [4, 5, 6]]
