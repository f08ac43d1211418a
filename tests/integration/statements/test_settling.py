"""`settle_deliveries`: what becomes of a claimed run, event by event."""

from __future__ import annotations

from pgbus.handlers.outcomes import DONE, Dead, Retry
from pgbus.listeners.settlement import ALONE, BLOCKED, RELEASED
from tests.support.bench import Bench, claimed


async def test_what_is_done_is_gone_and_in_the_history(bench: Bench) -> None:
    listener_id, claims = await claimed(bench, size=2, attempt=3)
    assert await bench.settle(listener_id, claims, DONE, DONE) == 1
    assert await bench.deliveries() == []
    assert await bench.fetch(
        "SELECT first, span, listener_id, attempt, outcome, duration, worker, error FROM pgbus.history"
    ) == [(1, 1, listener_id, 3, "done", 0.5, "worker-1", None)]


async def test_a_retry_waits_alone_for_its_instant_with_one_more_attempt(bench: Bench) -> None:
    listener_id, claims = await claimed(bench, size=3, attempt=2, lane=4)
    await bench.settle(listener_id, claims, DONE, Retry(100.0, "again"), RELEASED)
    assert await bench.deliveries("first, last, attempt, lane, last_error, available_at > now() + interval '90 s'") == [
        (2, 2, 3, 4, "again", True),
        (3, 3, 2, 4, None, False),
    ]
    assert await bench.fetch("SELECT position, outcome, error FROM pgbus.attempts ORDER BY position") == [
        (1, "done", None),
        (2, "retry", "again"),
    ]


async def test_a_dead_event_becomes_a_dead_letter(bench: Bench) -> None:
    listener_id, claims = await claimed(bench, attempt=10, lane=4)
    await bench.settle(listener_id, claims, Dead("no", "trace"))
    assert await bench.deliveries() == []
    assert await bench.fetch(
        "SELECT position, lane, attempts, error, traceback, worker, blocked_key FROM pgbus.dead_letters"
    ) == [(1, 4, 10, "no", "trace", "worker-1", None)]
    assert await bench.fetch("SELECT outcome, error FROM pgbus.attempts") == [("dead", "no")]


async def test_a_dead_event_of_a_blocking_listener_keeps_the_rest_of_its_key_aside(bench: Bench) -> None:
    listener_id, claims = await claimed(bench, size=3, lane=4)
    await bench.settle(listener_id, claims, Dead("no"), BLOCKED, BLOCKED, blocking=True)
    assert await bench.fetch("SELECT position, blocked_key FROM pgbus.dead_letters") == [(1, "k")]
    assert await bench.deliveries("first, last, lane, blocked_key") == [(2, 2, 4, "k"), (3, 3, 4, "k")]


async def test_an_event_that_nothing_blocks_any_more_goes_back_to_its_lane(bench: Bench) -> None:
    listener_id, claims = await claimed(bench, lane=4)
    await bench.settle(listener_id, claims, BLOCKED, blocking=True)
    assert await bench.deliveries("first, lane, blocked_key, attempt") == [(1, 4, None, 1)]


async def test_released_events_come_back_as_one_run_suspects_as_single_events(bench: Bench) -> None:
    listener_id, claims = await claimed(bench, size=6)
    await bench.settle(listener_id, claims, RELEASED, DONE, RELEASED, ALONE, ALONE, DONE)
    assert await bench.deliveries("first, last, events, positions, attempt") == [
        (1, 3, 2, [1, 3], 1),
        (4, 4, 1, None, 1),
        (5, 5, 1, None, 1),
    ]


async def test_a_lost_claim_is_left_alone_and_the_others_are_settled(bench: Bench) -> None:
    listener_id = await bench.rows.listener("mail", "**")
    await bench.log(1, 2)
    await bench.rows.delivery(listener_id, 1)
    await bench.rows.delivery(listener_id, 2)
    claims = await bench.claim(listener_id)
    await bench.connection.execute("UPDATE pgbus.deliveries SET claim_token = gen_random_uuid() WHERE first = 1")
    assert await bench.settle(listener_id, claims, Dead("no")) == 1
    assert await bench.deliveries() == [(1, 1)]
    assert await bench.fetch("SELECT position FROM pgbus.dead_letters") == [(2,)]
    assert await bench.fetch("SELECT position FROM pgbus.attempts") == [(2,)]


async def test_a_claim_is_settled_once(bench: Bench) -> None:
    listener_id, claims = await claimed(bench)
    assert await bench.settle(listener_id, claims, DONE) == 1
    assert await bench.settle(listener_id, claims, Retry(1.0, "again")) == 0
    assert await bench.deliveries() == []
