"""Connecting, and what stands where: the leader, listeners, workers."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from pgbus.admin import Admin
from pgbus.config import Config
from pgbus.errors import (
    DatabaseUnreachableError,
    SchemaVersionError,
)
from tests.conftest import Connect
from tests.support import eventually
from tests.support.operators import HOUR
from tests.support.rows import Rows
from tests.support.workers import open_bus, running

# ---------------------------------------------------------------------------------------------------------- connecting


async def test_connecting_to_an_absent_database_names_it_without_the_password() -> None:
    with pytest.raises(DatabaseUnreachableError, match=r"127\.0\.0\.1:1/nothing") as caught:
        async with Admin.connect(Config(dsn="postgresql://adam:s3cret@127.0.0.1:1/nothing")):
            pass
    assert "s3cret" not in str(caught.value)


async def test_connecting_to_a_database_that_was_never_upgraded_is_refused(empty_database: str) -> None:
    with pytest.raises(SchemaVersionError, match="run `pgbus db upgrade`"):
        async with Admin.connect(Config(dsn=empty_database)):
            pass


# -------------------------------------------------------------------------------------------------------------- status


async def test_an_empty_bus_has_no_leader_and_nothing_waiting(admin: Admin) -> None:
    status = await admin.status()
    assert (status.outbox_waiting, status.outbox_scheduled, status.outbox_age, status.log_head) == (0, 0, 0.0, 0)
    assert (status.listeners, status.workers, status.leader) == ((), (), None)


async def test_status_counts_what_waits_in_the_outbox_apart_from_what_is_scheduled(admin: Admin, rows: Rows) -> None:
    await rows.connection.execute(
        """
        INSERT INTO pgbus.outbox (topic, published_at, deliver_at) VALUES
            ('a', now() - interval '40 s', NULL),
            ('b', now() - interval '1 day', now() - interval '50 s'),
            ('c', now() - interval '1 day', now() + interval '1 day')
        """
    )
    await rows.event(7)
    status = await admin.status()
    assert (status.outbox_waiting, status.outbox_scheduled, status.log_head) == (2, 1, 7)
    assert 50 <= status.outbox_age < 80


async def test_status_shows_where_each_listener_stands(admin: Admin, rows: Rows) -> None:
    for position in range(1, 11):
        await rows.event(position, logged_at=datetime.now(UTC) - HOUR)
    worker_id = await rows.worker("worker-1", "mailer")
    mailer = await rows.listener("mailer", "orders.*", "auth.**", lanes=16)
    await rows.delivery(mailer, 1, 3, worker_id=worker_id, lane=1)
    await rows.delivery(mailer, 4, attempt=2, lane=2)
    await rows.delivery(mailer, 5, lane=3, blocked_key="adam")
    await rows.delivery(mailer, 6, 10, lane=4)
    await rows.dead_letter(mailer, 1)
    await rows.listener("replay", "**", cursor=9, state="paused")
    found, replay = (await admin.status()).listeners
    assert (found.listener_name, found.state, found.service, found.ordered) == ("mailer", "active", "shop", True)
    assert found.patterns == ("auth.**", "orders.*")
    assert (found.lag_events, found.in_flight, found.retrying, found.blocked, found.dead) == (10, 3, 1, 1, 1)
    assert 3600 <= found.lag_seconds < 3700
    assert (replay.state, replay.cursor, replay.lag_events) == ("paused", 9, 2)


async def test_a_worker_lives_and_leads_while_it_holds_the_locks_of_that(
    admin: Admin, database: str, connect: Connect
) -> None:
    leader, other = Rows(await connect(database)), Rows(await connect(database))
    await leader.worker("leader", "mailer", leads=True)
    await other.worker("other", "mailer", "stock")
    await other.worker("gone", live=False, leads=False)
    status = await admin.status()
    assert [(one.name, one.live, one.leading) for one in status.workers] == [
        ("leader", True, True),
        ("other", True, False),
        ("gone", False, False),
    ]
    assert status.leader is not None
    assert status.leader.name == "leader"
    assert status.workers[1].listeners == ("mailer", "stock")


async def test_a_worker_whose_session_ended_is_gone(admin: Admin, database: str, connect: Connect) -> None:
    rows = Rows(await connect(database))
    await rows.worker("leader", leads=True)
    await rows.connection.close()
    status = await admin.status()
    assert [(one.live, one.leading) for one in status.workers] == [(False, False)]
    assert status.leader is None


# ----------------------------------------------------------------------------------------------------------- listeners


async def test_admin_works_in_a_namespace_of_its_own(empty_database: str) -> None:
    from pgbus import migrate

    migrate.upgrade(empty_database, namespace="other")
    async with Admin.connect(Config(dsn=empty_database, namespace="other")) as admin:
        status = await admin.status()
        assert (status.log_head, status.listeners) == (0, ())
        assert await admin.find_events() == []


async def test_what_runs_for_a_second_is_reported_with_its_event(
    database: str, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgbus.worker.upkeep.TOUCH_INTERVAL", 0.2)
    async with open_bus(database, poll_interval=0.1) as bus:
        may_end = asyncio.Event()

        @bus.listener("a.b", name="slow")
        async def handle(event: int) -> None:
            await may_end.wait()

        async with running(bus):
            event = await bus.publish(1, topic="a.b", key="adam")
            query = "SELECT kind, name, id, topic, key, events, attempt, started_at < reported_at FROM pgbus.running"
            row = await eventually(lambda: rows.connection.fetchrow(query))
            assert list(row or ()) == ["listener", "slow", event.event_id, "a.b", "adam", 1, 1, True]
            may_end.set()
            await eventually(lambda: is_empty(rows))


async def is_empty(rows: Rows) -> bool:
    return await rows.connection.fetchrow("SELECT FROM pgbus.running") is None
