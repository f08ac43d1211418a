"""What claims cost after a stream of them next to a held snapshot, when vacuum has counted that no row lives.

All indexes look as if they had no entries then, and the planner takes the one with the fewest pages, whichever it is.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import psycopg
import pytest

from tests.plans.conftest import claim, plans_in
from tests.plans.plan import Plans
from tests.support import DatabaseServer

LANES = 64
DELIVERIES = 50_000
HELD = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pgbus.workers"
# As the engine does it: logged, claimed a hundred at a time with one lease, and settled.
STREAM = f"""
INSERT INTO pgbus.listeners (listener_name, lanes) VALUES ('ordered', {LANES});
INSERT INTO pgbus.deliveries (listener_id, lane, first, last, events)
SELECT 1, n % {LANES}, n, n, 1 FROM generate_series(1, {DELIVERIES}) AS n;
UPDATE pgbus.deliveries SET claim_token = gen_random_uuid(), worker_id = 1,
                            lease_expires_at = now() + first / 100 * INTERVAL '30 ms';
DELETE FROM pgbus.deliveries;
"""
OWED = f"""
INSERT INTO pgbus.deliveries (listener_id, lane, first, last, events)
SELECT 1, n % {LANES}, n, n, 1 FROM generate_series({DELIVERIES + 1}, {DELIVERIES + LANES}) AS n;
"""
CLAIMED = "SELECT count(*) FROM pgbus.deliveries WHERE claim_token IS NOT NULL"


@pytest.fixture
async def plans(server: DatabaseServer, upgraded_template: str) -> AsyncIterator[Plans]:
    with (
        server.temporary_database(template=upgraded_template) as dsn,
        psycopg.connect(dsn, autocommit=True) as holder,
        psycopg.connect(dsn, autocommit=True) as connection,
    ):
        connection.execute("ALTER TABLE pgbus.deliveries SET (autovacuum_enabled = false)")
        holder.execute(HELD)
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


async def test_a_look_for_lost_claims_reads_none_that_is_over(plans: Plans) -> None:
    """Those that a search has found below its floor, it knows by their ids."""
    terms: dict[str, object] = {"absent": [], "max_crashes": 5, "batch": 1_000, "work_channel": "pgbus_work"}
    overdue = await plans.connection.fetch(
        """
        UPDATE pgbus.deliveries
        SET claim_token = gen_random_uuid(), worker_id = 1, lease_expires_at = now() - INTERVAL '1 day'
        WHERE lane < 10
        RETURNING id
        """
    )
    plan = await plans.explain(
        "free_claims", **terms, overdue=[row["id"] for row in overdue], lease_floor=time.time() + 60, all_leases=False
    )
    assert await plans.connection.fetchval(CLAIMED) == 0
    assert plan.pages < 1_500


async def test_a_look_for_what_is_left_in_lanes_reads_no_lane_of_an_ordered_listener(plans: Plans) -> None:
    plan = await plans.explain("release_lanes", batch=1_000, work_channel="pgbus_work")
    assert plan.pages < 20
