"""Partitions, and what is pruned or freed from time to time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from pgbus.database.statements import maintenance
from pgbus.leader.sequencer import PARTITION_SIZE
from tests.support import eventually
from tests.support.bench import Bench


async def test_a_partition_is_opened_once(bench: Bench) -> None:
    assert await maintenance.open_partition(bench.store, number=1)
    assert not await maintenance.open_partition(bench.store, number=1)
    await bench.log(PARTITION_SIZE + 1)


async def test_a_partition_is_as_old_as_its_first_event(bench: Bench) -> None:
    assert await maintenance.find_partition_age(bench.store, number=0) is None
    await bench.log(2, logged_at=datetime.now(UTC) - timedelta(seconds=50))
    await bench.log(1, logged_at=datetime.now(UTC) - timedelta(seconds=100))
    age = await maintenance.find_partition_age(bench.store, number=0)
    assert age is not None
    assert 100 <= age < 160


async def test_a_partition_expires_when_its_last_event_is_past_the_retention(bench: Bench) -> None:
    for number in (1, 2, 3):
        await maintenance.open_partition(bench.store, number=number)
    now = datetime.now(UTC)
    for position, hours in ((1, 9), (2, 5), (PARTITION_SIZE, 9), (PARTITION_SIZE + 1, 1), (2 * PARTITION_SIZE, 9)):
        await bench.log(position, logged_at=now - timedelta(hours=hours))
    expired = await maintenance.find_expired_partitions(bench.store, current=2, retention=3600.0 * 4)
    assert expired == [0]
    await bench.connection.execute("UPDATE pgbus.partitions SET opened_at = now() - interval '1 day'")
    expired = await maintenance.find_expired_partitions(bench.store, current=4, retention=3600.0 * 4)
    assert expired == [0, 2, 3]


async def test_dedup_keys_are_forgotten_once_they_have_expired_a_batch_at_a_time(bench: Bench) -> None:
    for key, seconds in (("old", -3), ("older", -9), ("new", 60)):
        await bench.connection.execute(
            "INSERT INTO pgbus.dedup_keys VALUES ($1, gen_random_uuid(), now() + $2::int * interval '1 s')",
            key,
            seconds,
        )
    await maintenance.prune_dedup_keys(bench.store, batch=1)
    assert await bench.fetch("SELECT dedup_key FROM pgbus.dedup_keys ORDER BY 1") == [("new",), ("old",)]
    await maintenance.prune_dedup_keys(bench.store, batch=10)
    assert await bench.fetch("SELECT dedup_key FROM pgbus.dedup_keys") == [("new",)]


async def test_workers_long_gone_are_forgotten_but_never_the_leader_itself(bench: Bench) -> None:
    leader = await bench.rows.worker("leader", live=False)
    gone = await bench.rows.worker("gone", live=False)
    recent = await bench.rows.worker("recent", live=False)
    await bench.connection.execute(
        "UPDATE pgbus.workers SET last_seen_at = now() - interval '2 h' WHERE id = ANY($1)", [leader, gone]
    )
    await maintenance.prune_workers(bench.store, worker_ttl=3600.0, worker_id=leader)
    assert await bench.fetch("SELECT id FROM pgbus.workers ORDER BY id") == [(leader,), (recent,)]


async def test_deliveries_in_abandoned_lanes_are_freed_and_workers_are_told(bench: Bench, other: Bench) -> None:
    heard: list[str] = []
    await other.connection.add_listener("pgbus_work", lambda *args: heard.append(args[3]))
    unordered, ordered = await bench.rows.listener("unordered", "**"), await bench.rows.listener("o", "**", lanes=64)
    await bench.rows.delivery(unordered, 1, lane=3)
    await bench.rows.delivery(unordered, 2, lane=3, blocked_key="k")
    await bench.rows.delivery(unordered, 3, lane=3, worker_id=1)
    await bench.rows.delivery(ordered, 4, lane=3)
    await maintenance.release_lanes(bench.store, batch=100)
    freed = "SELECT first, lane, blocked_key, available_at IS NOT NULL FROM pgbus.deliveries ORDER BY first"
    assert await bench.fetch(freed) == [
        (1, None, None, True),
        (2, None, None, True),
        (3, 3, None, False),
        (4, 3, None, False),
    ]
    await maintenance.release_lanes(bench.store, batch=100)
    await eventually(lambda: heard)
    assert heard == [str(unordered)]


@pytest.mark.parametrize(
    "call_id",
    [
        UUID(int=0),
        UUID(int=2**128 - 1),
        UUID("f47ac10b-58cc-4372-a567-0e02b2c3d479"),
        UUID("3b241101-e2bb-4255-8caf-4136c566a962"),
    ],
    ids=["nil", "max", "random and high", "random and low"],
)
async def test_a_call_is_pruned_whatever_its_id(bench: Bench, call_id: UUID) -> None:
    insert = """
    INSERT INTO pgbus.rpc_requests (call_id, procedure, arguments, caller, caller_name, requested_at, deadline)
    VALUES ($1, 'a.b', '{}', 'x', 'x', now() - INTERVAL '1 day', now() + $2)
    """
    await bench.connection.execute(insert, call_id, timedelta(hours=-2))
    await bench.connection.execute(
        "INSERT INTO pgbus.rpc_responses (call_id, outcome, error) VALUES ($1, 'lost', '')", call_id
    )
    waiting = uuid4()
    await bench.connection.execute(insert, waiting, timedelta(minutes=1))
    assert (await bench.store.fetch_one("prune_calls", retention=3600.0, batch=100))["calls"] == 1
    assert await bench.fetch("SELECT call_id FROM pgbus.rpc_requests") == [(waiting,)]
    assert await bench.fetch("SELECT * FROM pgbus.rpc_responses") == []
