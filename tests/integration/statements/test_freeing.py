"""The leader's looks for the claims of dead workers: which of them read every claim."""

from __future__ import annotations

import asyncio
import logging
import math

import pytest

import pgbus
from pgbus.leader.maintenance import Maintenance
from tests.support import eventually
from tests.support.bench import Bench, claimed
from tests.support.maintenance import make_maintenance


@pytest.fixture
def woken() -> list[int]:
    """The listeners that were woken."""
    return []


@pytest.fixture
async def maintenance(bench: Bench, woken: list[int]) -> Maintenance:
    """A leader's, after its first look, which found nothing."""
    maintenance = make_maintenance(bench.connection, config=pgbus.Config(), wake_listeners=woken.extend)
    await maintenance._free_claims()
    return maintenance


async def dead_worker(bench: Bench) -> None:
    """The worker whose claims `Bench.claim` makes is registered, and has no session."""
    await bench.connection.execute(
        "INSERT INTO pgbus.workers (id, name, host, pid, version) OVERRIDING SYSTEM VALUE VALUES (1, 'w', 'h', 1, '0')"
    )


async def look_twice(maintenance: Maintenance) -> None:
    """Who is without a session at both looks, is dead."""
    for _ in range(2):
        await maintenance._free_claims()


async def end_leases(bench: Bench) -> None:
    await bench.connection.execute("UPDATE pgbus.deliveries SET lease_expires_at = clock_timestamp()")


async def test_the_claims_of_a_dead_worker_are_freed_at_the_second_look(
    bench: Bench, maintenance: Maintenance, woken: list[int]
) -> None:
    listener_id, _ = await claimed(bench)
    await dead_worker(bench)
    await maintenance._free_claims()
    assert woken == []
    await maintenance._free_claims()
    assert woken == [listener_id]
    assert await bench.deliveries("claim_token, crashes") == [(None, 1)]


async def test_claims_that_are_locked_are_looked_for_until_they_are_free(
    bench: Bench, other: Bench, maintenance: Maintenance, woken: list[int]
) -> None:
    """The session of a dead worker's handler may outlive that worker by its keepalives."""
    listener_id, _ = await claimed(bench)
    await dead_worker(bench)
    async with other.connection.transaction():
        await other.fetch("SELECT id FROM pgbus.deliveries FOR UPDATE")
        for _ in range(3):
            await maintenance._free_claims()
        assert woken == []
    await maintenance._free_claims()
    assert woken == [listener_id]


async def test_a_worker_whose_claims_are_free_is_not_looked_for_again_until_it_has_lived_and_died(
    bench: Bench, maintenance: Maintenance, woken: list[int]
) -> None:
    await dead_worker(bench)
    await look_twice(maintenance)
    # A dead worker claims nothing. Were all claims read, this one would be freed.
    listener_id, _ = await claimed(bench)
    await look_twice(maintenance)
    assert woken == []
    await bench.connection.execute("SELECT pg_advisory_lock(hashtext('pgbus.worker'), 1)")
    await maintenance._free_claims()
    await bench.connection.execute("SELECT pg_advisory_unlock_all()")
    await look_twice(maintenance)
    assert woken == [listener_id]


async def test_claims_that_run_out_are_freed_though_their_worker_was_done_with(
    bench: Bench, maintenance: Maintenance, woken: list[int]
) -> None:
    await dead_worker(bench)
    await look_twice(maintenance)
    listener_id, _ = await claimed(bench)
    await end_leases(bench)
    await maintenance._free_claims()
    assert woken == [listener_id]


async def test_claims_that_ran_out_while_they_were_locked_are_freed_after_a_search(
    bench: Bench, other: Bench, maintenance: Maintenance, woken: list[int]
) -> None:
    listener_id, _ = await claimed(bench)
    await end_leases(bench)
    async with other.connection.transaction():
        await other.fetch("SELECT id FROM pgbus.deliveries FOR UPDATE")
        await maintenance._free_claims()
        await maintenance._find_overdue()
        await maintenance._free_claims()
        assert woken == []
    await maintenance._free_claims()
    assert woken == [], "it lies below the floor"
    await maintenance._find_overdue()
    await maintenance._free_claims()
    assert woken == [listener_id]


async def test_what_a_search_has_found_is_left_alone_if_it_is_kept_or_free_by_now(
    bench: Bench, maintenance: Maintenance, woken: list[int]
) -> None:
    await claimed(bench)
    await bench.connection.execute("UPDATE pgbus.deliveries SET lease_expires_at = now() - interval '1 s'")
    await maintenance._find_overdue()
    await bench.connection.execute("UPDATE pgbus.deliveries SET lease_expires_at = now() + interval '1 hour'")
    await maintenance._free_claims()
    await bench.connection.execute("UPDATE pgbus.deliveries SET lease_expires_at = now() - interval '1 s'")
    await maintenance._find_overdue()
    await bench.connection.execute(
        "UPDATE pgbus.deliveries SET claim_token = NULL, worker_id = NULL, lease_expires_at = NULL"
    )
    await maintenance._free_claims()
    assert woken == []
    assert await bench.deliveries("crashes") == [(0,)]


async def test_more_claims_than_a_look_frees_are_freed_by_the_looks_after_it(
    bench: Bench, maintenance: Maintenance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgbus.leader.maintenance.FREE_BATCH", 2)
    listener_id = await bench.rows.listener("mail", "**")
    await bench.log(*range(1, 6))
    for position in range(1, 6):
        await bench.rows.delivery(listener_id, position)
    await bench.claim(listener_id)
    await end_leases(bench)
    for left in (3, 1, 0):
        await maintenance._free_claims()
        assert await bench.fetch("SELECT count(*) FROM pgbus.deliveries WHERE claim_token IS NOT NULL") == [(left,)]


async def test_searches_go_on_until_they_are_cancelled_also_after_one_that_the_database_failed(
    bench: Bench, other: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pgbus.leader.maintenance.SEARCH_INTERVAL", 0.01)
    caplog.set_level(logging.INFO, logger="pgbus")
    [claim] = (await claimed(bench))[1]
    await bench.connection.execute("UPDATE pgbus.deliveries SET lease_expires_at = now() - interval '1 s'")
    maintenance = make_maintenance(bench.connection, config=pgbus.Config(), pool=other.connection)
    maintenance._lease_floor = math.inf
    searching = asyncio.create_task(maintenance.search())
    await eventually(lambda: maintenance._overdue == [claim.id])
    await other.connection.close()
    await eventually(lambda: sum("overdue claims is postponed" in message for message in caplog.messages) > 1)
    assert not searching.done()
    searching.cancel()
    await asyncio.wait([searching])
