"""What readers ask the history, with the server's settings: it takes what it finds, however long the log is."""

from __future__ import annotations

import pytest

from tests.plans.conftest import EVENTS
from tests.plans.plan import Plan, Plans

POSITION = EVENTS // 2
RUN_BLOCK = "history_p0_run_block_idx"
STARTED_AT = "history_p0_started_at_idx"


async def ask(plans: Plans, condition: str, *, view: str = "event_history") -> Plan:
    """Twice, as a session's first query also reads the catalog."""
    await plans.connection.execute("RESET ALL")
    query = f"SELECT * FROM pgbus.{view} WHERE {condition}"
    await plans.ask(query)
    plan = await plans.ask(query)
    assert plan.scanned_whole <= {"events_p1"}  # which is small
    assert not plan.is_compiled
    return plan


@pytest.mark.parametrize(
    "condition",
    [
        f"position = {POSITION}",
        f"event_id = (SELECT event_id FROM pgbus.events WHERE position = {POSITION})",
        f"position = (SELECT position FROM pgbus.events WHERE position = {POSITION}) AND outcome = 'done'",
    ],
)
async def test_an_events_attempts_are_found_by_the_blocks_that_it_lies_in(plans: Plans, condition: str) -> None:
    plan = await ask(plans, condition)
    assert RUN_BLOCK in plan.indexes
    assert plan.steps < 300
    assert plan.pages < 50
    assert "history_p1" not in plan.relations


async def test_the_attempts_at_the_events_of_a_key_are_found_one_by_one(plans: Plans) -> None:
    plan = await ask(plans, "key = 'customer 7'")
    events = EVENTS // 1_000
    assert RUN_BLOCK in plan.indexes
    assert plan.steps < events * 250
    assert plan.pages < events * 40


async def test_the_attempts_at_events_of_a_time_in_the_log_are_found(plans: Plans) -> None:
    plan = await ask(
        plans,
        "logged_at BETWEEN now() - interval '23 hours' AND now() - interval '23 hours' + interval '20 s'",
    )
    assert RUN_BLOCK in plan.indexes
    assert plan.pages < 200 * 40 + 300


@pytest.mark.parametrize("view", ["event_history", "attempts"])
async def test_attempts_are_found_by_the_time_when_they_began(plans: Plans, view: str) -> None:
    plan = await ask(
        plans,
        "started_at BETWEEN now() - interval '23 hours' AND now() - interval '23 hours' + interval '100 s'",
        view=view,
    )
    assert STARTED_AT in plan.indexes
    # A range of the index, which is 32 pages of the table, and then what is in it.
    assert sum(node.rows + node.removed for node in plan.nodes if node.relation == "history_p0") < 10_000
    assert plan.pages < 20_000


async def test_operators_rates_read_the_attempts_of_their_time(plans: Plans) -> None:
    await plans.connection.execute("RESET ALL")
    plan = await plans.ask(
        """
        SELECT listener_name, count(*), percentile_cont(0.99) WITHIN GROUP (ORDER BY duration)
        FROM pgbus.event_history
        WHERE started_at > now() - interval '1 day' + interval '5 hours 30 minutes'
        GROUP BY listener_name
        """
    )
    assert STARTED_AT in plan.indexes
    assert not plan.is_compiled


async def test_all_attempts_are_joined_with_all_events_at_once(plans: Plans) -> None:
    """Whoever wants everything does not get a look-up for each event."""
    await plans.connection.execute("RESET ALL")
    plan = await plans.ask("SELECT count(*), count(outcome) FROM pgbus.event_history")
    assert RUN_BLOCK not in plan.indexes
