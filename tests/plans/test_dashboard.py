"""The statements of the dashboard's pages read what they show, however long the log is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pgbus.admin import Condition, EventFilter
from pgbus.contrib.dashboard.searching import WINDOW
from pgbus.contrib.dashboard.visits import LIMIT
from pgbus.database.statements.inspection import parameters
from tests.plans.conftest import EVENTS, ask
from tests.plans.plan import Plan, Plans


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


async def test_the_last_errors_of_a_listener_are_found_by_their_time(plans: Plans) -> None:
    plan = await ask(plans, "list_failures", listener_name="one", window=3600.0, limit=10)
    assert "history_p0_started_at_idx" in plan.indexes
    assert plan.pages < 3_000, plan.pages


@pytest.mark.parametrize(("verb", "most"), [("replay", 2_000), ("retry", 2_000), ("retry_now", 12_000), ("pause", 100)])
async def test_a_preview_reads_what_the_change_would_touch(plans: Plans, verb: str, most: int) -> None:
    filter_ = {"listener": "one"}
    if verb == "replay":
        filter_ |= {"from": str(EVENTS - 1_000), "to": str(EVENTS)}
    plan = await ask(plans, "preview_operation", verb=verb, filter=json.dumps(filter_), samples=10)
    assert plan.pages < most, plan.pages  # within functions, whose plans cannot be seen


async def test_the_schemas_are_read_once_and_their_workers_once(plans: Plans) -> None:
    schemas = """INSERT INTO pgbus.schemas (kind, name, service, version, schema, hash)
    SELECT 'event', 'shop.topic_' || n, 'shop', v, '{"parameters": {}}', md5(n || '.' || v)
    FROM generate_series(1, 200) AS n, generate_series(1, 5) AS v"""
    await plans.connection.execute(schemas)
    plan = await ask(plans, "list_schemas")
    assert plan.steps < 5_000, plan.steps
    assert plan.pages < 500, plan.pages
