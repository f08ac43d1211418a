"""What waits for its time costs the statements of every look and claim nothing: scheduled events, and retries.

Enough rows that any step over them would show in the pages; with a million, the plans are the same.
"""

from __future__ import annotations

from tests.plans.conftest import DEAD, FIRST_OWED, claim
from tests.plans.plan import Plans

RETRIES = 100_000
SCHEDULED = 100_000
WAITING = f"""
INSERT INTO pgbus.deliveries (listener_id, first, last, events, attempt, available_at)
SELECT 1, n, n, 1, 2, now() + interval '1 hour' + n * interval '1 ms' FROM generate_series(1, {RETRIES}) AS n;
INSERT INTO pgbus.deliveries (listener_id, first, last, events, attempt, available_at, lane)
SELECT 4, n, n, 1, 2, now() + interval '1 hour' + n * interval '1 ms', n % 16
FROM generate_series(1, {RETRIES}) AS n;
INSERT INTO pgbus.outbox (topic, payload, deliver_at)
SELECT 'shop.later', '{{}}', now() + interval '1 hour' + n * interval '1 ms' FROM generate_series(1, {SCHEDULED}) AS n;
ANALYZE pgbus.deliveries;
ANALYZE pgbus.outbox;
"""


async def pages(plans: Plans, *, high: int) -> dict[str, int]:
    """Pages that each statement of the hot path touches, by its name."""
    lean = await plans.explain(
        "claim_ready",
        listener_id=1,
        worker_id=1,
        claim_token="00000000-0000-0000-0000-000000000001",
        floor=FIRST_OWED,
        due_floor=0.0,
        rows=10,
        limit=100,
        piece=100,
        lease=60.0,
        left_topics=[],
    )
    return {
        "read_outbox": (await plans.explain("read_outbox", high=high, batch=100, hashes=True)).pages,
        "find_next_due": (await plans.explain("find_next_due", due_floor=0.0)).pages,
        "claim_ready": lean.pages,
        "claim_deliveries": (await claim(plans, 1, limit=100)).pages,
    }


async def test_scheduled_events_and_waiting_retries_cost_looks_and_claims_nothing(plans: Plans) -> None:
    without = await pages(plans, high=DEAD)
    last = await plans.connection.fetchval("SELECT max(id) FROM pgbus.outbox")
    await plans.connection.execute(WAITING)
    high = await plans.connection.fetchval("SELECT max(id) FROM pgbus.outbox")
    assert high >= last + SCHEDULED
    beside = await pages(plans, high=DEAD)
    # A level more of an index is a page for each descent into it.
    assert {name: count for name, count in beside.items() if count > 1.25 * without[name] + 20} == {}, without
    assert (await plans.explain("read_outbox", high=high, batch=100, hashes=True)).pages < 10
