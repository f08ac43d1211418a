"""Leases, the locks of claims, and `free_claims`: what dead workers leave."""

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

from pgbus.database.adapters import async_executor
from pgbus.database.statements import deliveries
from pgbus.database.statements.deliveries import Claim
from pgbus.leader.maintenance import MAX_CRASHES
from pgbus.listeners.listener import LANES
from tests.support import eventually
from tests.support.bench import LEASE, Bench, claimed, crash, free
from tests.support.waiting import PATIENCE


async def test_extending_a_lease_names_its_token_and_steps_over_a_locked_row(bench: Bench, other: Bench) -> None:
    listener_id = await bench.rows.listener("mail", "**")
    await bench.log(1, 2, 3)
    for position in (1, 2, 3):
        await bench.rows.delivery(listener_id, position)
    claims = await bench.claim(listener_id, lease=10.0)
    claims[1].token = uuid4()
    async with other.connection.transaction():
        await other.fetch("SELECT id FROM pgbus.deliveries WHERE first = 3 FOR UPDATE")
        async with asyncio.timeout(PATIENCE):
            kept = await deliveries.extend_leases(bench.store, claims, lease=1000.0)
            ours = await deliveries.find_our_claims(bench.store, claims)
    assert await bench.deliveries("first, lease_expires_at > now() + interval '900 s'") == [
        (1, True),
        (2, False),
        (3, False),
    ]
    assert kept == {claims[0].id}
    assert ours == {claims[0].id, claims[2].id}


async def test_locking_a_delivery_finds_only_our_own_claim(bench: Bench, other: Bench) -> None:
    _, [claim] = await claimed(bench)
    executor = async_executor(other.connection)
    lock = other.store.statement("lock_delivery")
    async with other.connection.transaction():
        assert await executor.fetch(lock, {"delivery_id": claim.id, "claim_token": uuid4()}) == []
        assert len(await executor.fetch(lock, {"delivery_id": claim.id, "claim_token": claim.token})) == 1
        assert await crash(bench) == (0, [])
    assert await crash(bench) != (0, [])


async def test_freeing_looks_at_no_lease_below_its_floor(bench: Bench) -> None:
    listener_id, _ = await claimed(bench)
    look = await free(bench, lease_floor=time.time() + 10 * LEASE)
    assert look.freed == 0
    await bench.connection.execute("UPDATE pgbus.deliveries SET lease_expires_at = clock_timestamp()")
    assert await crash(bench, lease_floor=look.looked_at) == (1, [listener_id])


async def test_without_all_leases_only_those_that_ran_out_are_freed(bench: Bench) -> None:
    listener_id, _ = await claimed(bench)
    await bench.rows.delivery(listener_id, 2)
    [absent] = (await free(bench)).absent
    look = await free(bench, absent=[absent], all_leases=False)
    assert (look.freed, look.absent, look.is_done) == (0, frozenset(), False), "it reads none of its claims"
    await bench.connection.execute("UPDATE pgbus.deliveries SET lease_expires_at = clock_timestamp() WHERE first = 1")
    assert (await free(bench, all_leases=False)).freed == 1


async def test_a_registered_worker_without_a_session_is_absent_whatever_is_looked_at(bench: Bench) -> None:
    await bench.connection.execute(
        "INSERT INTO pgbus.workers (id, name, host, pid, version) OVERRIDING SYSTEM VALUE VALUES (12, 'w', 'h', 1, '0')"
    )
    assert (await free(bench, all_leases=False)).absent == {12}


async def test_freeing_is_not_done_while_someone_has_locked_a_claim_of_a_dead_worker(
    bench: Bench, other: Bench
) -> None:
    await claimed(bench)
    absent = (await free(bench)).absent
    async with other.connection.transaction():
        await other.fetch("SELECT id FROM pgbus.deliveries FOR UPDATE")
        look = await free(bench, absent=absent)
        assert (look.freed, look.is_done) == (0, False)
    look = await free(bench, absent=absent)
    assert (look.freed, look.is_done) == (1, True)


async def test_a_worker_that_is_back_by_the_next_look_keeps_its_claims(bench: Bench, other: Bench) -> None:
    listener_id = await bench.rows.listener("mail", "**")
    await bench.log(1)
    await bench.rows.delivery(listener_id, 1)
    worker_id = await other.rows.worker("alive")
    await bench.claim(listener_id, worker_id=worker_id)
    await other.connection.execute("SELECT pg_advisory_unlock_all()")
    look = await free(bench)
    assert (look.freed, look.absent) == (0, frozenset({worker_id}))
    await other.connection.execute("SELECT pg_advisory_lock(hashtext('pgbus.worker'), $1)", worker_id)
    look = await free(bench, absent=look.absent)
    assert (look.freed, look.absent) == (0, frozenset())
    assert await bench.deliveries("crashes") == [(0,)]


async def test_the_claims_of_a_live_worker_with_a_lease_stay(bench: Bench, other: Bench) -> None:
    listener_id = await bench.rows.listener("mail", "**")
    await bench.log(1)
    await bench.rows.delivery(listener_id, 1)
    worker_id = await other.rows.worker("alive")
    await bench.claim(listener_id, worker_id=worker_id)
    assert await crash(bench) == (0, [])
    await bench.connection.execute("UPDATE pgbus.deliveries SET lease_expires_at = now() - interval '1 s'")
    assert await crash(bench) == (1, [listener_id])


async def test_a_workers_lock_in_another_namespace_does_not_count(bench: Bench, other: Bench) -> None:
    await claimed(bench)
    await other.connection.execute("SELECT pg_advisory_lock(hashtext('elsewhere.worker'), 1)")
    assert (await crash(bench))[0] == 1


async def test_a_run_comes_back_whole_after_one_crash_and_event_by_event_after_two(bench: Bench) -> None:
    listener_id = await bench.rows.listener("mail", "**")
    await bench.log(*range(1, 6))
    await bench.rows.delivery(listener_id, 1, 5, positions=[1, 3, 5])
    await bench.claim(listener_id)
    assert await crash(bench) == (1, [listener_id])
    assert await bench.deliveries("first, last, events, crashes, attempt, claim_token") == [(1, 5, 3, 1, 1, None)]
    await bench.claim(listener_id)
    assert await crash(bench) == (1, [listener_id])
    assert await bench.deliveries("first, last, positions, crashes") == [
        (1, 1, None, 2),
        (3, 3, None, 2),
        (5, 5, None, 2),
    ]


async def test_an_event_alone_in_five_crashes_becomes_a_dead_letter_with_history(bench: Bench) -> None:
    listener_id, _ = await claimed(bench, attempt=2, lane=4)
    for number in range(1, MAX_CRASHES):
        assert await crash(bench) == (1, [listener_id])
        assert await bench.deliveries("crashes, lane, attempt") == [(number, 4, 2)]
        await bench.claim(listener_id, lanes=LANES)
    await bench.rows.worker("doomed", live=False)
    await crash(bench)
    assert await bench.deliveries() == []
    assert await bench.fetch("SELECT position, lane, attempts, error, worker, blocked_key FROM pgbus.dead_letters") == [
        (1, 4, 2, "the worker died 5 times while it handled this event", "doomed", None)
    ]
    assert await bench.fetch("SELECT outcome, attempt FROM pgbus.attempts") == [("dead", 2)]


async def test_an_event_that_killed_its_workers_blocks_its_key_if_the_listener_blocks(bench: Bench) -> None:
    await claimed(bench, lane=4)
    await bench.connection.execute('UPDATE pgbus.listeners SET options = \'{"on_poison": "block"}\'')
    await bench.connection.execute("UPDATE pgbus.deliveries SET crashes = 4")
    await crash(bench)
    assert await bench.fetch("SELECT blocked_key FROM pgbus.dead_letters") == [("k",)]


async def test_freeing_claims_tells_the_workers(bench: Bench, other: Bench) -> None:
    heard: list[str] = []
    await other.connection.add_listener("pgbus_work", lambda *args: heard.append(args[3]))
    await crash(bench)
    await claimed(bench)
    await crash(bench)
    await eventually(lambda: heard)
    assert heard == ["reload"]


async def test_claims_unknown_to_their_living_worker_come_back_without_a_crash(bench: Bench) -> None:
    listener_id = await bench.rows.listener("mail", "**")
    await bench.log(1, 2, 3)
    claims: list[Claim] = []
    for position, worker_id in ((1, 7), (2, 7), (3, 8)):
        await bench.rows.delivery(listener_id, position)
        [claim] = await bench.claim(listener_id, worker_id=worker_id)
        claims.append(claim)
    own = await deliveries.find_own_claims(bench.store, worker_id=7)
    assert own == {claim.id: claim.token for claim in claims[:2]}
    await deliveries.return_claims(bench.store, {claims[0].id: claims[0].token, claims[1].id: uuid4()})
    tokens = [claim.token for claim in claims]
    assert await bench.deliveries("first, claim_token, crashes") == [(1, None, 0), (2, tokens[1], 0), (3, tokens[2], 0)]
