"""The statements of the dashboard's pages read what they show, however long the log is."""

from __future__ import annotations

from typing import Any

import pytest

from pgbus.admin import Condition, EventFilter
from pgbus.contrib.dashboard.searching import WINDOW
from pgbus.contrib.dashboard.visits import LIMIT
from pgbus.database.statements.inspection import parameters
from tests.plans.conftest import EVENTS
from tests.plans.plan import Plan, Plans

# Of the log this is a partition that has just begun; the others have what waits, not what was.
SMALL = {"events_p1", "outbox", "deliveries"}


async def ask(plans: Plans, name: str, /, **values: Any) -> Plan:
    """Twice, with the server's settings, as a page has them: a session's first query also reads the catalog."""
    await plans.connection.execute("RESET ALL")
    await plans.carry_out(name, values)
    plan = await plans.carry_out(name, values)
    assert plan.scanned_whole <= SMALL
    assert not plan.is_compiled
    return plan


async def find(plans: Plans, **wanted: Any) -> Plan:
    criteria = parameters(EventFilter(**wanted).criteria())
    return await ask(plans, "find_events", **criteria, limit=LIMIT, newest_first=True)


async def test_the_overview_reads_little_of_the_log(plans: Plans) -> None:
    statements: dict[str, dict[str, Any]] = {
        "describe_bus": {},
        "list_listeners": {},
        "list_workers": {"namespace": "pgbus"},
        "list_schedules": {},
        "read_flow": {},
    }
    pages = {name: (await ask(plans, name, **values)).pages for name, values in statements.items()}
    # Much of it are dead rows of the outbox and of deliveries, which the held snapshot keeps.
    assert sum(pages.values()) < 10_000, pages


async def test_what_listeners_did_is_found_by_its_time(plans: Plans) -> None:
    since = await plans.connection.fetchval("SELECT now() - interval '1 day' + interval '5 hours 30 minutes'")
    plan = await ask(plans, "read_intervals", since=since)
    assert "history_p0_started_at_idx" in plan.indexes
    assert plan.pages < 2_000, plan.pages


async def test_a_window_of_the_log_is_found_by_its_index(plans: Plans) -> None:
    plan = await ask(plans, "find_window", before=None, events=WINDOW)
    assert plan.steps < 3 * WINDOW
    assert plan.pages < 2_000, plan.pages


async def test_a_tree_costs_what_is_in_it(plans: Plans) -> None:
    event_id = await plans.connection.fetchval(f"SELECT event_id FROM pgbus.events WHERE position = {EVENTS // 2}")
    plan = await ask(plans, "read_tree", member_id=event_id, limit=200)
    assert plan.steps < 500
    # The calls are none here, but the table may have the dead rows of those that other tests have rolled back.
    pages = sum(node.pages for node in plan.nodes if node.relation != "rpc_requests")
    assert pages < 300, pages


CHANGES = """
INSERT INTO pgbus.dead_letters (listener_id, position, attempts, error, fingerprint, worker)
SELECT 1 + n % 3, n, 5, 'ValueError: no', 'cause ' || n % 12, 'w' FROM generate_series(1, 20000) AS n;
INSERT INTO pgbus.operations (verb, filter, requested_by, state, matched, progress, last, finished_at)
SELECT 'retry', '{}', 'ann', 'done', 0, 0, 0, now() FROM generate_series(1, 5000);
INSERT INTO pgbus.operation_items (operation_id, listener_name, position, attempts)
SELECT n, 'one', n, 5 FROM pgbus.operations AS o, generate_series(o.id, o.id + 9) AS n WHERE o.id % 10 = 0
  AND EXISTS (SELECT FROM pgbus.operations AS x WHERE x.id = n);
ANALYZE pgbus.dead_letters, pgbus.operations, pgbus.operation_items
"""


async def test_letters_and_operations_are_found_by_their_ids_and_their_events_by_positions(plans: Plans) -> None:
    await plans.connection.execute(CHANGES)
    ids = [row["id"] for row in await plans.connection.fetch("SELECT id FROM pgbus.dead_letters ORDER BY id DESC")]
    last = await plans.connection.fetchval("SELECT max(id) FROM pgbus.operations")
    anything = dict.fromkeys(("operation_id", "before", "verb", "who", "subject", "state", "since", "until"))
    assert (await ask(plans, "list_operations", **anything, limit=50)).steps < 500
    plan = await ask(plans, "list_operations", **{**anything, "operation_id": last}, limit=1)
    assert plan.steps < 100
    plan = await ask(plans, "list_operation_items", operation_id=last, limit=200)
    assert plan.indexes == {"operation_items_operation"}
    assert plan.pages < 100
    assert (await ask(plans, "read_dead_letters", ids=ids[:50])).pages < 3_000
    plan = await ask(plans, "summarize_dead_letters", ids=ids)
    assert plan.scanned_whole == set()
    assert plan.pages < 150_000, plan.pages


@pytest.mark.parametrize(
    ("wanted", "most"),
    [
        ({}, 3_000),
        ({"key": "customer 7"}, 6_000),
        ({"before": EVENTS // 2}, 6_000),
        ({"topic": "shop.*", "after": EVENTS - WINDOW}, 3_000),
        ({"topic": "other.*", "after": EVENTS - WINDOW}, 3_000),
        ({"service": "nobody", "after": EVENTS - WINDOW}, 3_000),
        ({"where": (Condition.parse("n = 7"),), "after": EVENTS - WINDOW}, 3_000),
        ({"outcome": "dead", "after": EVENTS - WINDOW}, 400_000),
    ],
    ids=str,
)
async def test_a_search_reads_no_more_than_its_window(plans: Plans, wanted: dict[str, Any], most: int) -> None:
    plan = await find(plans, **wanted)
    if "outcome" in wanted and plans.connection.get_server_version().major < 15:
        most *= 2  # of an event's history, 30 pages and not 15
    assert plan.pages < most, plan.pages
