"""What claims cost after a stream of them next to a held snapshot, when vacuum has counted that no row lives.

All indexes look as if they had no entries then, and the planner takes the one with the fewest pages, whichever it is.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from tests.plans.conftest import claim, done, next_to_a_snapshot, plans_in
from tests.plans.plan import Plans
from tests.support import DatabaseServer

LANES = 64
DELIVERIES = 50_000
# As the engine does it: logged, claimed a hundred at a time with one lease, and settled.
STREAM = f"""
INSERT INTO pgbus.listeners (listener_name, lanes) VALUES ('ordered', {LANES});
INSERT INTO pgbus.deliveries (listener_id, lane, first, last, events)
SELECT 1, n % {LANES}, n, n, 1 FROM generate_series(1, {DELIVERIES}) AS n;
UPDATE pgbus.deliveries SET claim_token = gen_random_uuid(), worker_id = 1,
                            lease_expires_at = now() + INTERVAL '1 min' - ({DELIVERIES} - first) * INTERVAL '12 ms';
DELETE FROM pgbus.deliveries;
"""
OWED = f"""
INSERT INTO pgbus.deliveries (listener_id, lane, first, last, events)
SELECT 1, n % {LANES}, n, n, 1 FROM generate_series({DELIVERIES + 1}, {DELIVERIES + LANES}) AS n;
"""
OFFER = {"worker_id": 1, "lease": 60.0, "claim_token": "00000000-0000-7000-8000-000000000001"}
NEXT = "INSERT INTO pgbus.outbox (topic, payload) VALUES ('shop.sold', '{}') RETURNING id"
CLAIMED = "SELECT count(*) FROM pgbus.deliveries WHERE claim_token IS NOT NULL"


@pytest.fixture
async def plans(server: DatabaseServer, upgraded_template: str) -> AsyncIterator[Plans]:
    with next_to_a_snapshot(server, upgraded_template, table="deliveries") as (dsn, connection):
        connection.execute(STREAM.encode())
        connection.execute("VACUUM ANALYZE pgbus.deliveries")
        connection.execute(OWED.encode())
        async with plans_in(dsn) as made:
            yield made


async def test_a_claim_in_all_lanes_reads_no_claim_that_is_over(plans: Plans) -> None:
    """The index of all claims is the smallest: read for each lane, it made a claim take a second."""
    plan = await claim(plans, 1, limit=10_000, floor=0, lane_floors=[DELIVERIES + 1] * LANES)
    assert await plans.connection.fetchval(CLAIMED) == LANES
    assert plan.pages < 50 * LANES


async def test_a_claim_in_some_lanes_reads_no_claim_that_is_over(plans: Plans) -> None:
    plan = await plans.explain(
        "claim_lanes",
        listener_id=1,
        lanes=list(range(10)),
        lane_floors=[DELIVERIES + 1] * 10,
        rows=100,
        limit=100,
        piece=100,
        blocking=False,
        left_topics=[],
        **OFFER,
    )
    assert {"deliveries_lanes", "deliveries_lanes_due", "deliveries_pkey"} <= plan.indexes
    assert await plans.connection.fetchval(CLAIMED) == 10
    assert plan.pages < 50 * 10
    assert plan.steps < 500


async def test_a_lane_is_found_to_be_empty_without_its_dead_rows(plans: Plans) -> None:
    """What is logged into it is claimed at once."""
    await plans.connection.execute("DELETE FROM pgbus.deliveries; DELETE FROM pgbus.route_changes")
    ids = [await plans.connection.fetchval(NEXT) for _ in range(10)]
    positions = list(range(DELIVERIES + 1_001, DELIVERIES + 1_011))
    plan = await plans.explain(
        "log_events",
        ids=ids,
        base=positions[0],
        listener_ids=[1] * 10,
        lanes=list(range(10)),
        firsts=positions,
        lasts=positions,
        sizes=[1] * 10,
        positions=[None] * 10,
        claimed=[True] * 10,
        lane_floors=[DELIVERIES + 1_000] * 10,
        wakes=[],
        work_channel="pgbus_work",
        **OFFER,
    )
    assert await plans.connection.fetchval(CLAIMED) == 10
    assert plan.pages < 100 * 10


async def make_claims(plans: Plans, *, lease: str) -> dict[str, object]:
    rows = await plans.connection.fetch(
        f"""
        UPDATE pgbus.deliveries
        SET claim_token = gen_random_uuid(), worker_id = 1, lease_expires_at = now() + INTERVAL '{lease}'
        WHERE lane < 10
        RETURNING id, claim_token
        """
    )
    return {"delivery_ids": [row["id"] for row in rows], "claim_tokens": [str(row["claim_token"]) for row in rows]}


@pytest.mark.parametrize("name", ["extend_leases", "find_our_claims", "return_claims", "forfeit_claims"])
async def test_claims_that_are_known_are_looked_up_by_their_ids(plans: Plans, name: str) -> None:
    claims = await make_claims(plans, lease="1 min")
    plan = await plans.explain(name, **claims, lease=60.0, work_channel="pgbus_work")
    assert "deliveries_pkey" in plan.indexes
    assert "deliveries_claimed" not in plan.indexes
    assert plan.pages < 10 * 25


async def test_claims_are_settled_by_their_ids(plans: Plans) -> None:
    claims = await make_claims(plans, lease="1 min")
    ids, tokens = claims["delivery_ids"], claims["claim_tokens"]
    for name in ("settle_done", "settle_deliveries"):
        plan = await plans.explain(name, **done(ids[:5], tokens[:5]))  # type: ignore[index]
        ids, tokens = ids[5:], tokens[5:]  # type: ignore[index]
        assert "deliveries_pkey" in plan.indexes
        assert "deliveries_claimed" not in plan.indexes
        assert plan.pages < 300


async def test_a_look_for_lost_claims_reads_none_that_was_over_before_it(plans: Plans) -> None:
    """Those that a search has found below its floor, it knows by their ids."""
    claims = await make_claims(plans, lease="-1 day")
    terms: dict[str, object] = {"absent": [], "max_crashes": 5, "batch": 1_000, "work_channel": "pgbus_work"}
    terms |= {"lease_floor": time.time() + 60, "all_leases": False}
    nothing = await plans.explain("free_claims", **terms, overdue=[])
    assert nothing.pages < 50
    plan = await plans.explain("free_claims", **terms, overdue=claims["delivery_ids"])
    assert await plans.connection.fetchval(CLAIMED) == 0
    assert plan.pages < 10 * 25


async def test_a_look_for_the_claims_of_a_worker_reads_those_of_one_lease(plans: Plans) -> None:
    await make_claims(plans, lease="30 s")
    own = await plans.explain("find_own_claims", worker_id=1)
    every = await plans.explain("find_overdue_claims", before=time.time() + 100, batch=1_000)
    assert own.indexes == every.indexes == {"deliveries_claimed"}
    assert own.pages < every.pages / 5


async def test_a_look_for_what_is_left_in_lanes_reads_no_lane_of_an_ordered_listener(plans: Plans) -> None:
    plan = await plans.explain("release_lanes", batch=1_000, work_channel="pgbus_work")
    assert plan.pages < 20
