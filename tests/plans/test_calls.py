"""The statements of a call: their work is proportional to the batch, however many calls are over or wait elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from uuid import UUID, uuid4

import pytest

from tests.plans.conftest import filled, next_to_a_snapshot, plans_in
from tests.plans.plan import Plans
from tests.support import DatabaseServer

# Some calls that wait for our procedure, many that wait for another one, and those that are over.
WAITING = """
INSERT INTO pgbus.rpc_requests (call_id, procedure, arguments, caller, caller_name, deadline)
SELECT gen_random_uuid(), CASE WHEN n <= 100 THEN 'sums.add' ELSE 'sums.other' END, '{}', 'x', 'x',
       now() + interval '1 hour'
FROM generate_series(1, 5000) AS n;
"""
OVER = """
INSERT INTO pgbus.rpc_requests (call_id, procedure, arguments, caller, caller_name, deadline, taken_at, worker_id)
SELECT gen_random_uuid(), 'sums.add', '{}', 'x', 'x', now() + interval '1 hour', now(), 1
FROM generate_series(1, 20000);
INSERT INTO pgbus.rpc_responses (call_id, outcome, result, error_type, error)
SELECT call_id, CASE WHEN n % 100 = 0 THEN 'failed' ELSE 'answered' END,
       CASE WHEN n % 100 > 0 THEN CAST('1' AS json) END,
       CASE WHEN n % 100 = 0 THEN 'ValueError' END, CASE WHEN n % 100 = 0 THEN 'no number ' || n END
FROM (SELECT call_id, row_number() OVER () AS n FROM pgbus.rpc_requests) AS r;
"""
CLAIM = {"procedures": ["sums.add"], "rooms": [10], "worker_id": 1}


@pytest.fixture(scope="module")
def called_database(server: DatabaseServer, upgraded_template: str) -> Iterator[str]:
    with filled(server, upgraded_template, OVER + WAITING, "rpc_requests", "rpc_responses") as dsn:
        yield dsn


@pytest.fixture
async def calls(called_database: str) -> AsyncIterator[Plans]:
    async with plans_in(called_database) as plans:
        yield plans


def answers(call_ids: Sequence[UUID]) -> dict[str, object]:
    nothing = [None] * len(call_ids)
    return {
        "worker": "w",
        "call_ids": call_ids,
        "outcomes": ["answered"] * len(call_ids),
        "results": ["1"] * len(call_ids),
        "error_types": nothing,
        "errors": nothing,
        "error_arguments": nothing,
        "tracebacks": nothing,
        "channels": ["pgbus_reply_x"],
        "payloads": ["{}"],
        "hints": [""],
    }


async def waiting(plans: Plans, count: int) -> list[UUID]:
    query = "SELECT call_id FROM pgbus.rpc_requests WHERE taken_at IS NULL LIMIT $1"
    return [row["call_id"] for row in await plans.connection.fetch(query, count)]


async def test_posting_a_request_reads_nothing(calls: Plans) -> None:
    values = {"call_ids": [uuid4()], "procedures": ["sums.add"], "arguments": ["{}"], "timeouts": [5.0]}
    values |= {"headers": [None], "caller": "x", "caller_name": "x", "channel": "pgbus_calls", "payload": "sums.add"}
    await calls.explain("post_requests", **values | {"call_ids": [uuid4()]})  # the first one reads the domains
    plan = await calls.explain("post_requests", **values)
    assert plan.relations == set()
    assert plan.pages < 100


@pytest.mark.parametrize("answered", [0, 10])
async def test_a_claim_reads_what_waits_for_its_procedures(calls: Plans, answered: int) -> None:
    if answered:
        plan = await calls.explain("answer_and_claim", **CLAIM, **answers(await waiting(calls, answered)))
    else:
        plan = await calls.explain("claim_requests", **CLAIM)
    assert plan.indexes == {"rpc_requests_waiting", "rpc_requests_pkey"}
    assert plan.relations == {"rpc_requests"}
    assert plan.steps < 200
    assert plan.pages < 1_000


async def test_a_claim_reads_no_call_that_is_over_where_vacuum_has_counted_that_no_row_lives(
    server: DatabaseServer, upgraded_template: str
) -> None:
    with next_to_a_snapshot(server, upgraded_template, table="rpc_requests") as (dsn, connection):
        connection.execute(OVER.encode())
        connection.execute("DELETE FROM pgbus.rpc_requests")
        connection.execute("VACUUM ANALYZE pgbus.rpc_requests")
        connection.execute(WAITING.encode())
        async with plans_in(dsn) as calls:
            for name, values in (("claim_requests", {}), ("answer_and_claim", answers([uuid4()]))):
                plan = await calls.explain(name, **CLAIM, **values)
                assert plan.scanned_whole == set()
                assert plan.pages < 500


async def test_answering_reads_nothing(calls: Plans) -> None:
    plan = await calls.explain("answer_requests", **answers(await waiting(calls, 10)))
    assert plan.relations == set()
    assert plan.pages < 500


async def test_reading_responses_reads_those_and_no_others(calls: Plans) -> None:
    call_ids = await waiting(calls, 10)
    await calls.explain("answer_requests", **answers(call_ids))
    plan = await calls.explain("fetch_responses", call_ids=call_ids)
    assert plan.pages < 500  # within a function, whose plan cannot be seen


async def test_the_newest_calls_and_one_call_are_found_by_their_ids(calls: Plans) -> None:
    any_call = {"call_id": None, "name_regex": None, "since": None, "until": None, "condition": None, "error": None}
    [one] = await waiting(calls, 1)
    await calls.connection.execute("RESET ALL")  # with the server's settings, as a page has them
    for wanted, most in (({}, 2_000), ({"call_id": one}, 100)):
        plan = await calls.carry_out("find_calls", {**any_call, **wanted, "limit": 50})
        assert {node.relation for node in plan.nodes if node.kind == "Seq Scan"} <= {"workers"}
        assert plan.pages < most, plan.pages


async def test_calls_with_an_error_come_from_the_responses_that_are_errors(calls: Plans) -> None:
    any_call = {"call_id": None, "name_regex": None, "since": None, "until": None, "condition": None, "limit": 50}
    await calls.connection.execute("RESET ALL")  # with the server's settings, as a page has them
    for error in ("ValueError", "no number 700", "nothing of the kind"):
        plan = await calls.carry_out("find_calls", {**any_call, "error": error})
        assert "rpc_responses_errors" in plan.indexes
        assert not {node.relation for node in plan.nodes if node.kind == "Seq Scan"} & {"rpc_requests", "rpc_responses"}
        assert plan.steps < 2_000, plan.steps  # of 20,000 responses


async def test_the_tree_of_a_call_reads_its_own_calls_and_no_others(calls: Plans) -> None:
    [one] = await waiting(calls, 1)
    await calls.connection.execute("RESET ALL")
    await calls.carry_out("read_tree", {"member_id": one, "limit": 200})
    plan = await calls.carry_out("read_tree", {"member_id": one, "limit": 200})
    assert not {node.relation for node in plan.nodes if node.kind == "Seq Scan"} & {"rpc_requests", "rpc_responses"}
    assert plan.pages < 500, plan.pages
