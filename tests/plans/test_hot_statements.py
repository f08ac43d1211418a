"""The statements that run all day: their work is proportional to the batch, whatever lies around it.

The bounds on pages and steps are a few times what is needed, and far below what any scan would take.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from pgbus.admin import EventFilter
from pgbus.database.statements.inspection import parameters
from tests.plans.conftest import DEAD, DUE_FLOOR, FIRST_OWED, SECOND_PARTITION, claim, done
from tests.plans.plan import Plan, Plans


async def find_waiting(plans: Plans, count: int) -> list[int]:
    """The ids of the first rows in the outbox that are due at once."""
    rows = await plans.connection.fetch(
        "SELECT id FROM pgbus.outbox WHERE deliver_at IS NULL AND id > $1 ORDER BY id LIMIT $2", DEAD, count
    )
    return [row["id"] for row in rows]


async def log_events(plans: Plans, ids: Sequence[int], *, base: int) -> Plan:
    """With one run for each listener."""
    return await plans.explain(
        "log_events",
        ids=list(ids),
        base=SECOND_PARTITION + base,
        listener_ids=[1, 2, 3],
        lanes=[None] * 3,
        firsts=[SECOND_PARTITION + base] * 3,
        lasts=[SECOND_PARTITION + base + len(ids) - 1] * 3,
        sizes=[len(ids)] * 3,
        positions=[None] * 3,
        claimed=[False] * 3,
        lane_floors=[None] * 3,
        claim_token=uuid4(),
        worker_id=1,
        lease=60.0,
        wakes=["1,2,3"],
        work_channel="pgbus_work",
    )


async def hold_claims(plans: Plans, count: int, *, worker: int = 1) -> tuple[list[int], list[str]]:
    """Claims of one event each."""
    rows = await plans.connection.fetch(
        """
        INSERT INTO pgbus.deliveries (listener_id, first, last, events, claim_token, worker_id, lease_expires_at)
        SELECT 3, n, n, 1, gen_random_uuid(), $2, now() + interval '1 minute' FROM generate_series(1, $1::integer) AS n
        RETURNING id, claim_token
        """,
        count,
        worker,
    )
    return [row["id"] for row in rows], [str(row["claim_token"]) for row in rows]


async def test_claim_touches_what_it_claims_and_no_dead_row_below_its_floor(plans: Plans) -> None:
    few = await claim(plans, 1, limit=10)
    many = await claim(plans, 1, limit=1_000)
    assert {"deliveries_ready", "events_p0_pkey"} <= many.indexes
    assert few.pages < 200
    assert many.pages < 800
    assert few.steps < 500
    assert many.steps < 15_000
    # Without its floor it steps over every dead row: so they are there.
    assert (await claim(plans, 1, limit=10, floor=0)).pages > few.pages + DEAD // 100


async def test_the_lean_claim_touches_what_it_claims_and_no_dead_row_below_its_floor(plans: Plans) -> None:
    plan = await plans.explain(
        "claim_ready",
        listener_id=1,
        worker_id=1,
        claim_token=uuid4(),
        floor=FIRST_OWED,
        due_floor=DUE_FLOOR,
        rows=10,
        limit=1_000,
        piece=100,
        lease=60.0,
        left_topics=[],
    )
    assert {"deliveries_ready", "deliveries_due", "events_p0_pkey"} <= plan.indexes
    assert "events_p1" not in plan.relations
    assert plan.pages < 800
    assert plan.steps < 15_000


async def test_claim_reads_only_the_partition_of_its_events(plans: Plans) -> None:
    plan = await claim(plans, 1, limit=500)
    assert "events_p0" in plan.relations
    assert "events_p1" not in plan.relations


async def test_claim_reads_the_head_of_each_lane_and_not_what_waits_behind(plans: Plans) -> None:
    await plans.connection.execute(
        """
        INSERT INTO pgbus.deliveries (listener_id, lane, first, last, events, available_at)
        SELECT 4, n % 16, n, n, 1, now() FROM generate_series(300001, 320000) AS n
        """
    )
    plan = await claim(plans, 4, limit=1_000, piece=50)
    assert "deliveries_lanes" in plan.indexes
    assert plan.pages < 1_500
    assert plan.steps < 10_000


async def test_a_claim_from_the_floors_of_lanes_reads_none_of_their_dead_rows(plans: Plans) -> None:
    # What a lane's first row is, and what has come back below its floor; the rows between are dead, and were claimed.
    await plans.connection.execute(
        f"""
        INSERT INTO pgbus.deliveries (listener_id, lane, first, last, events, claim_token, worker_id, lease_expires_at)
        SELECT 4, n % 16, n, n, 1, gen_random_uuid(), 1, now() FROM generate_series(1, {DEAD // 5}) AS n;
        DELETE FROM pgbus.deliveries WHERE listener_id = 4 AND first <= {DEAD // 5};
        INSERT INTO pgbus.deliveries (listener_id, lane, first, last, events, available_at)
        SELECT 4, n % 16, n, n, 1, now() FROM generate_series(1, 8) AS n
        """
    )
    slow = await claim(plans, 4, limit=100)
    quick = await claim(plans, 4, limit=100, lane_floors=[FIRST_OWED] * 16)
    assert {"deliveries_lanes", "deliveries_lanes_due"} <= quick.indexes
    assert slow.pages > quick.pages + DEAD // 5 // 20
    assert quick.pages < 500
    assert quick.steps < 2_000


async def test_claim_finds_what_is_due_by_its_index_and_not_what_is_due_later(plans: Plans) -> None:
    await plans.connection.execute(
        f"""
        INSERT INTO pgbus.deliveries (listener_id, first, last, events, available_at)
        SELECT 2, n, n, 1, now() + interval '1 hour' FROM generate_series(1, {DEAD // 5}) AS n;
        INSERT INTO pgbus.deliveries (listener_id, first, last, events, available_at)
        SELECT 2, n, n, 1, now() FROM generate_series(1, 500) AS n
        """
    )
    plan = await claim(plans, 2, limit=100)
    assert "deliveries_due" in plan.indexes
    assert plan.pages < 800
    assert plan.steps < 2_000


async def test_a_look_reads_what_is_new_and_touches_no_dead_row_below_its_frontier(plans: Plans) -> None:
    few = await plans.explain("read_outbox", high=DEAD, batch=10, hashes=False)
    many = await plans.explain("read_outbox", high=DEAD, batch=1_000, hashes=True)
    assert few.indexes == many.indexes == {"outbox_pkey"}
    assert few.pages < 20
    assert many.pages < 100
    assert many.steps < 5_000
    nothing = await plans.explain("read_outbox", high=10_000_000, batch=1_000, hashes=False)
    assert nothing.pages < 10
    assert (await plans.explain("read_outbox", high=0, batch=10, hashes=False)).pages > few.pages + DEAD // 200


async def test_a_look_at_holes_reads_these_alone(plans: Plans) -> None:
    [some] = await find_waiting(plans, 1)
    lows = [some + n * 10 for n in range(100)]
    plan = await plans.explain(
        "read_outbox_and_holes",
        high=10_000_000,
        batch=1_000,
        hashes=False,
        lows=lows,
        ends=[low + 2 for low in lows],
        scheduled=True,
    )
    assert plan.indexes == {"outbox_pkey"}
    assert plan.pages < 100 * 5
    assert plan.steps < 2_000


async def test_a_large_hole_is_read_batch_by_batch(plans: Plans) -> None:
    [some] = await find_waiting(plans, 1)
    plan = await plans.explain(
        "read_outbox_and_holes",
        high=10_000_000,
        batch=10,
        hashes=False,
        lows=[some],
        ends=[10_000_000],
        scheduled=True,
    )
    assert plan.pages < 20
    assert plan.steps < 200


async def test_logging_looks_each_row_up_by_its_id(plans: Plans) -> None:
    few = await log_events(plans, await find_waiting(plans, 10), base=10_000)
    many = await log_events(plans, await find_waiting(plans, 1_000), base=20_000)
    assert many.indexes == {"outbox_pkey"}
    assert few.pages < 500
    assert many.pages < 16_000
    assert many.steps < 20_000


async def test_logging_an_event_touches_few_pages(plans: Plans) -> None:
    [some] = await find_waiting(plans, 1)
    values: dict[str, object] = {
        "id": some,
        "base": SECOND_PARTITION + 50_000,
        "listener_ids": [1, 2],
        "lanes": [None] * 2,
    }
    values |= {"claimed": [True, False], "wakes": [], "work_channel": "pgbus_work", "worker_id": 1, "lease": 60.0}
    plan = await plans.explain("log_event", **values, claim_token="00000000-0000-7000-8000-000000000001")
    assert plan.indexes == {"outbox_pkey"}
    assert plan.pages < 500
    assert plan.steps < 50


async def test_reading_and_logging_at_once_touches_few_pages_whether_or_not_the_guess_is_right(plans: Plans) -> None:
    first, second = await find_waiting(plans, 2)
    guess: dict[str, object] = {"topics": ["shop.sold", "x"], "ancestors": [None, "y z"], "numbers": [1, 1, 2]}
    guess |= {"listener_ids": [1, 2, 3], "lanes": [None, 8, None], "claimed": [True, False, True], "wake_numbers": [1]}
    guess |= {"wakes": ["2"], "work_channel": "pgbus_work", "worker_id": 1, "lease": 60.0, "hashes": True}
    guess |= {"claim_token": "00000000-0000-7000-8000-000000000001", "base": SECOND_PARTITION + 60_000}
    wrong = await plans.explain("read_and_log_event", **guess, high=first - 1, batch=2)
    right = await plans.explain("read_and_log_event", **guess, high=second - 1, batch=1)
    assert wrong.pages < 20 < right.pages, "it writes"
    for plan in (wrong, right):
        assert plan.indexes == {"outbox_pkey"}
        assert plan.pages < 500
        assert plan.steps < 200


async def test_what_is_scheduled_is_found_by_its_instant(plans: Plans) -> None:
    next_due = await plans.explain("find_next_due", due_floor=0.0)
    assert next_due.indexes == {"outbox_scheduled"}
    assert next_due.pages < 20
    await plans.connection.execute(
        "UPDATE pgbus.outbox SET deliver_at = now() - interval '1 s' WHERE deliver_at < now() + interval '100 min'"
    )
    due = await plans.explain("lock_due_events", due_floor=0.0, batch=50, hashes=False)
    assert due.indexes == {"outbox_scheduled"}
    assert due.pages < 500
    assert due.steps < 500


async def test_settling_thousands_of_single_events_is_not_quadratic(plans: Plans) -> None:
    for name in ("settle_done", "settle_deliveries"):
        ids, tokens = await hold_claims(plans, 2_000)
        plan = await plans.explain(name, **done(ids, tokens))
        assert "deliveries_pkey" in plan.indexes
        assert plan.steps < 2_000 * 12
        assert plan.pages < 2_000 * 25
        assert all(node.loops <= 2_000 for node in plan.nodes)


async def test_extending_leases_looks_each_claim_up_by_its_key(plans: Plans) -> None:
    ids, tokens = await hold_claims(plans, 1_000)
    plan = await plans.explain("extend_leases", delivery_ids=ids, claim_tokens=tokens, lease=60.0)
    assert "deliveries_pkey" in plan.indexes
    assert plan.steps < 10_000
    assert plan.pages < 1_000 * 25


async def test_freeing_and_finding_claims_looks_only_at_claims(plans: Plans) -> None:
    await hold_claims(plans, 500)
    await plans.connection.execute(
        "INSERT INTO pgbus.workers (id, name, service, host, pid, version, listeners) OVERRIDING SYSTEM VALUE "
        "VALUES (1, 'w', 's', 'h', 1, '0', '{}')"
    )
    await plans.connection.execute("SELECT pg_advisory_xact_lock(hashtext('pgbus.worker'), 1)")
    terms: dict[str, object] = {"absent": [2], "max_crashes": 5, "batch": 1_000, "work_channel": "pgbus_work"}
    terms |= {"overdue": []}
    free = await plans.explain("free_claims", lease_floor=-math.inf, all_leases=True, **terms)
    own = await plans.explain("find_own_claims", worker_id=1)
    overdue = await plans.explain("find_overdue_claims", before=time.time(), batch=1_000)
    for plan in (free, own, overdue):
        assert "deliveries_claimed" in plan.indexes
        assert plan.pages < 2_000
        assert plan.steps < 5_000
    # While nobody is absent, it leaves the claims alone whose leases go on.
    expired = await plans.explain("free_claims", lease_floor=time.time() - 1, all_leases=False, **terms)
    assert "deliveries_claimed" in expired.indexes
    assert expired.steps < 100


async def test_the_poll_for_lost_notifications_uses_indexes(plans: Plans) -> None:
    plan = await plans.explain("find_ready_listeners", listener_ids=[1, 2, 3, 4])
    assert plan.indexes <= {"deliveries_ready", "deliveries_due", "deliveries_lanes"}


async def test_publishing_reads_nothing(plans: Plans) -> None:
    values: dict[str, object] = {"event_id": uuid4(), "topic": "shop.sold", "payload": "{}"}
    values |= dict.fromkeys(("ancestors", "key", "headers", "published_by"))
    await plans.explain("insert_event", **values)  # the first one of a session also reads the trigger's source
    one = await plans.explain("insert_event", **values)
    many = await plans.explain(
        "insert_events",
        event_ids=[str(uuid4()) for _ in range(1_000)],
        topics=["shop.sold"] * 1_000,
        ancestors=[],
        keys=[],
        payloads=["{}"] * 1_000,
        published_by=None,
        headers=[],
        deliver_ats=[],
        delays=[],
    )
    lines = await plans.explain(
        "insert_lines",
        event_ids=" ".join(str(uuid4()) for _ in range(1_000)),
        topic="shop.sold",
        ancestors=None,
        headers=None,
        published_by=None,
        payloads="\n".join(["{}"] * 1_000),
    )
    assert one.relations == many.relations == lines.relations == set()
    assert one.pages < 100
    assert lines.pages < 20 * 1_000
    assert many.pages < 20 * 1_000


async def test_a_listener_that_is_behind_gets_its_stretch_of_the_log(plans: Plans) -> None:
    await plans.connection.execute("UPDATE pgbus.listeners SET cursor = 100000 WHERE id = 2")
    plan = await plans.explain("backfill_listener", batch=500, run=100, work_channel="pgbus_work")
    assert "events_p0_pkey" in plan.indexes
    assert "events_p1" not in plan.relations
    assert plan.pages < 2_000
    assert plan.steps < 10_000


async def test_listeners_that_are_known_are_registered_again_without_a_look_at_the_log(plans: Plans) -> None:
    names = ["one", "two"]
    plan = await plans.explain(
        "register_listeners",
        listener_names=names,
        lanes=[None] * 2,
        options=["{}"] * 2,
        start_positions=[None] * 2,
        service="",
    )
    assert not {relation for relation in plan.relations if relation.startswith("events")}


async def test_the_position_of_an_instant_is_found_without_reading_the_whole_log(plans: Plans) -> None:
    for age in (0.0, 10_000.0, 1e9):
        instant = datetime.now(UTC) - timedelta(seconds=age)
        plan = await plans.explain("find_position_at", instant=instant)
        assert plan.steps < 1_000
        assert plan.pages < 1_000


async def test_looking_for_events_reads_few_of_the_log(plans: Plans) -> None:
    # Operators' connections have the server's settings. To whom events are owed, they look up in all deliveries.
    await plans.connection.execute("RESET ALL")
    filters = parameters(EventFilter().criteria())
    some = await plans.connection.fetchrow("SELECT event_id, key FROM pgbus.events WHERE position = 150000")
    assert some is not None
    for wanted in (
        {"after": 0, "newest_first": True},
        {"after": 150_000, "newest_first": False},
        {"after": 0, "newest_first": True, "event_id": some["event_id"]},
        {"after": 0, "newest_first": True, "key": some["key"]},
    ):
        plan = await plans.carry_out("find_events", {"limit": 20, **filters, **wanted})
        assert plan.scanned_whole <= {"deliveries"}
        read = sum(node.rows + node.removed for node in plan.nodes if (node.relation or "").startswith("events_"))
        assert read < 500, wanted
