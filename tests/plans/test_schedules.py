"""The statements of schedules: their work is that of the schedules asked for, whatever history lies around them."""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.plans.plan import Plan, Plans

SCHEDULES = 2_000
RUNS = 100_000

FILL = f"""
INSERT INTO pgbus.schedules (schedule_name, rule, next_run_at)
SELECT 'task ' || n, 'every 60 s', now() + n * interval '1 second' FROM generate_series(1, {SCHEDULES}) AS n;
INSERT INTO pgbus.schedule_runs (run_id, schedule_name, due_at, attempt, worker, started_at, finished_at, outcome)
SELECT gen_random_uuid(), 'task ' || n % {SCHEDULES}, at, 1, 'w', at, at, 'done'
FROM (SELECT n, now() - n * interval '1 minute' AS at FROM generate_series(1, {RUNS}) AS n) AS past;
ANALYZE pgbus.schedules;
ANALYZE pgbus.schedule_runs;
"""


@pytest.fixture
async def filled(plans: Plans) -> Plans:
    await plans.connection.execute(FILL)
    return plans


async def claim(plans: Plans, names: list[str]) -> Plan:
    return await plans.explain(
        "claim_schedules",
        namespace="pgbus",
        worker_id=1,
        worker="w",
        schedule_names=names,
        tokens=[uuid4() for _ in names],
        running=[],
        lease=60.0,
    )


async def test_a_look_at_schedules_reads_their_rows_alone(filled: Plans) -> None:
    idle = await claim(filled, [f"task {n}" for n in range(1, 21)])
    assert {"schedules_schedule_name_key", "schedules_pkey", "schedule_runs_pkey"} >= idle.indexes
    assert idle.pages < 200
    assert idle.steps < 500


async def test_claiming_and_finishing_touches_the_claimed_rows_alone(filled: Plans) -> None:
    names = [f"task {n}" for n in range(1, 21)]
    await filled.connection.execute(
        "UPDATE pgbus.schedules SET next_run_at = now() WHERE schedule_name = ANY ($1)", names
    )
    # A run of ours that nobody carries out, as the answer to its claim was lost, is claimed again.
    await filled.connection.execute(
        """
        UPDATE pgbus.schedules SET worker_id = 1, lease_expires_at = now() + interval '1 hour',
            claim_token = (SELECT run_id FROM pgbus.schedule_runs WHERE schedule_name = 'task 1' LIMIT 1)
        WHERE schedule_name = 'task 1'
        """
    )
    plan = await claim(filled, names)
    assert plan.pages < 1_500
    assert plan.steps < 2_000
    claimed = await filled.connection.fetch(
        "SELECT schedule_name, claim_token FROM pgbus.schedules WHERE worker_id = 1"
    )
    assert sorted(row["schedule_name"] for row in claimed) == sorted(names)
    for row in claimed[:2]:
        plan = await filled.explain(
            "finish_schedule_run",
            schedule_name=row["schedule_name"],
            token=row["claim_token"],
            rule="every 60 s",
            outcome="done",
            error=None,
            due_at="2026-01-01T00:00:00Z",
            next_run_at="2026-01-01T00:01:00Z",
        )
        assert plan.indexes <= {"schedules_schedule_name_key", "schedules_claimed", "schedule_runs_pkey"}
        assert plan.pages < 100


async def test_pruning_and_the_timetable_read_the_ends_of_the_history(filled: Plans) -> None:
    plan = await filled.explain("prune_schedule_runs", retention=RUNS * 60.0 - 6_000, batch=10_000)
    assert "schedule_runs_age" in plan.indexes
    assert plan.steps < 2_000 + SCHEDULES
    await filled.connection.execute("RESET ALL")
    plan = await filled.explain("list_schedules")
    assert "schedule_runs_newest" in plan.indexes
    assert plan.steps < 20 * SCHEDULES


async def test_freeing_runs_looks_at_the_schedules_once(filled: Plans) -> None:
    await filled.connection.execute(
        """
        UPDATE pgbus.schedules SET worker_id = 7, lease_expires_at = now() + interval '1 hour', next_run_at = now(),
            claim_token = (SELECT run_id FROM pgbus.schedule_runs WHERE schedule_name = 'task 1' LIMIT 1)
        WHERE schedule_name = 'task 1'
        """
    )
    plan = await filled.explain("free_schedules", namespace="pgbus", absent=[7], work_channel="pgbus")
    assert plan.pages < 200
    assert plan.steps < 4 * SCHEDULES
