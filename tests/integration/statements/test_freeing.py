"""The leader's looks for the claims of dead workers: which of them read every claim."""

from __future__ import annotations

import pytest

import pgbus
from pgbus.leader.maintenance import Maintenance
from tests.support.bench import Bench, claimed
from tests.support.maintenance import make_maintenance


@pytest.fixture
def woken() -> list[int]:
    """The listeners that were woken."""
    return []


@pytest.fixture
async def maintenance(bench: Bench, woken: list[int]) -> Maintenance:
    """A leader's, after its first scan from the bottom, which found nothing."""
    maintenance = make_maintenance(bench.connection, config=pgbus.Config(), wake_listeners=woken.extend)
    await maintenance._free_claims()
    return maintenance


async def dead_worker(bench: Bench) -> None:
    """The worker whose claims `Bench.claim` makes is registered, and has no session."""
    await bench.connection.execute(
        "INSERT INTO pgbus.workers (id, name, host, pid, version) OVERRIDING SYSTEM VALUE VALUES (1, 'w', 'h', 1, '0')"
    )


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
    for _ in range(2):
        await maintenance._free_claims()
    # A dead worker claims nothing. Were all claims read, this one would be freed.
    listener_id, _ = await claimed(bench)
    for _ in range(2):
        await maintenance._free_claims()
    assert woken == []
    await bench.connection.execute("SELECT pg_advisory_lock(hashtext('pgbus.worker'), 1)")
    await maintenance._free_claims()
    await bench.connection.execute("SELECT pg_advisory_unlock_all()")
    for _ in range(2):
        await maintenance._free_claims()
    assert woken == [listener_id]


@pytest.mark.parametrize("is_locked", [True, False])
async def test_claims_that_run_out_are_freed_though_their_worker_was_done_with(
    bench: Bench, other: Bench, maintenance: Maintenance, woken: list[int], is_locked: bool
) -> None:
    await dead_worker(bench)
    for _ in range(2):
        await maintenance._free_claims()
    listener_id, _ = await claimed(bench)
    await bench.connection.execute("UPDATE pgbus.deliveries SET lease_expires_at = clock_timestamp()")
    async with other.connection.transaction():
        if is_locked:
            await other.fetch("SELECT id FROM pgbus.deliveries FOR UPDATE")
        await maintenance._free_claims()
        assert woken == ([] if is_locked else [listener_id])
    maintenance._bottom_at = 0.0  # a scan from the bottom is due
    await maintenance._free_claims()
    assert woken == [listener_id]
