"""Each check sees its fault, provoked on a real server; a healthy bus has none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import asyncpg
import pytest

import pgbus
from pgbus import migrate
from pgbus.config import Config
from pgbus.database.statements import inspection
from pgbus.doctor import CHECKS, examination, examine, horizon, notifications, tables
from pgbus.embedded import EmbeddedPostgres
from pgbus.testing.databases import DatabaseServer
from tests.conftest import Connect
from tests.integration.doctor.ward import Ward
from tests.support import eventually
from tests.support.workers import open_bus, running

Provocation = Callable[[Ward], Awaitable[object]]

NOBODY_ANSWERS: dict[str, str | int] = {
    "synchronous_standby_names": "nobody", "synchronous_commit": "local", "max_wal_senders": 1, "wal_level": "replica",
}  # fmt: skip
HOUR_AGO = "now() - interval '2 hours'"

BUS: dict[str, tuple[str, Provocation]] = {
    "leader": ("fault", lambda ward: ward.run("SELECT pg_advisory_unlock(hashtext('pgbus.leader'), 1)")),
    "gone-workers": (
        "warning",
        lambda ward: ward.run(
            "INSERT INTO pgbus.workers (name, host, pid, version, last_seen_at) "
            f"VALUES ('gone', 'host', 1, '0', {HOUR_AGO} - interval '1 hour')"
        ),
    ),
    "failed-parts": (
        "fault",
        lambda ward: ward.run("""UPDATE pgbus.workers SET failures = '{"listener mailer": "KeyError: no"}'"""),
    ),
    "versions": ("warning", lambda ward: add_worker(ward, version="99")),
    "unstaffed-listeners": ("fault", lambda ward: owe(ward, "forgotten")),
    "paused-listeners": ("warning", lambda ward: owe(ward, "paused", state="paused")),
    "lag": ("warning", lambda ward: owe(ward, "mailer", logged_at=datetime.now(UTC) - timedelta(hours=1))),
    "blocked-keys": ("fault", lambda ward: ward.rows.delivery(ward.listener_id, 1, blocked_key="customer 7")),
    "parked-events": (
        "warning",
        lambda ward: ward.rows.delivery(ward.listener_id, 1, left_topic="orders.placed", last_error="left to others"),
    ),
    "dead-letters": ("warning", lambda ward: ward.rows.dead_letter(ward.listener_id, 1)),
    "failing-listeners": ("warning", lambda ward: fail(ward, times=10)),
    "unheard-topics": ("warning", lambda ward: ward.rows.event(2, "order.placed")),
    "quiet-subscriptions": ("warning", lambda ward: hear_nothing(ward)),
    "late-schedules": (
        "fault",
        lambda ward: ward.run(
            f"INSERT INTO pgbus.schedules (schedule_name, rule, next_run_at) VALUES ('nightly', 'daily', {HOUR_AGO})"
        ),
    ),
    "failed-runs": ("warning", lambda ward: fail_run(ward)),
    "unanswered-calls": ("warning", lambda ward: leave_unanswered(ward)),
}
SERVER: dict[str, tuple[str, Provocation]] = {
    "autovacuum": ("fault", lambda ward: ward.run("ALTER TABLE pgbus.deliveries SET (autovacuum_enabled = false)")),
    "storage-options": (
        "warning",
        lambda ward: ward.run("ALTER TABLE pgbus.deliveries RESET (autovacuum_vacuum_scale_factor)"),
    ),
    "timeouts": ("warning", lambda ward: set_for_database(ward, "statement_timeout = '10s'")),
    "durability": ("warning", lambda ward: set_for_database(ward, "synchronous_commit = off")),
    "sequences": ("warning", lambda ward: ward.run("SELECT setval('pgbus.listeners_id_seq', 2000000000)")),
    "indexes": (
        "fault",
        lambda ward: ward.run(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'pgbus.deliveries_due'::regclass"
        ),
    ),
    "copy": (
        "warning",
        lambda ward: ward.run("INSERT INTO pgbus.installation (system_identifier, database) VALUES (1, 1)"),
    ),
    "public-rights": ("warning", lambda ward: ward.run("GRANT SELECT ON pgbus.events TO PUBLIC")),
    "grants": ("fault", lambda ward: ward.run("REVOKE INSERT ON pgbus.history FROM pgbus_worker")),
    "plan-of-looks": ("fault", lambda ward: ward.run("ALTER TABLE pgbus.outbox DROP CONSTRAINT outbox_pkey")),
    "plan-of-claims": ("fault", lambda ward: ward.run("DROP INDEX pgbus.deliveries_ready, pgbus.deliveries_lanes")),
    "plan-of-calls": ("fault", lambda ward: ward.run("DROP INDEX pgbus.rpc_requests_waiting")),
}
PROVOKED = {**BUS, **SERVER}
# The others have tests of their own below, or of their judgement where this machine cannot provoke the fault.
APART = {
    "outbox", "leases", "retention", "pooler", "wakeup", "notification-queue", "notification-lock", "connection-room",
    "standby", "encryption", "clock", "open-transactions", "prepared-transactions", "slots", "standbys", "kept-wal",
    "dead-rows", "freezing", "version", "encoding", "collation",
}  # fmt: skip


def test_every_check_is_provoked() -> None:
    names = [check.name for check in CHECKS]
    assert len(names) == len(set(names)) >= 30
    assert set(names) == set(PROVOKED) | APART


async def test_a_healthy_bus_has_no_fault_and_no_warning(ward_server: DatabaseServer, ward_template: str) -> None:
    with ward_server.temporary_database(template=ward_template) as dsn:
        handled = asyncio.Event()
        async with open_bus(dsn) as bus:

            @bus.listener("orders.placed", name="mailer")
            async def mail(event: pgbus.EventMessage) -> None:
                handled.set()

            async with running(bus):
                await bus.publish({"n": 1}, topic="orders.placed")
                await handled.wait()
                took: list[float] = []
                while len(took) < 5 and min(took, default=2) >= 2:  # other tests may have had the machine meanwhile
                    started = asyncio.get_running_loop().time()
                    found = await examine(Config(dsn=dsn))
                    took.append(asyncio.get_running_loop().time() - started)
    assert min(took) < 2
    assert [one for one in found.findings if one.verdict in ("warning", "fault")] == []


@pytest.mark.parametrize("check", PROVOKED)
async def test_a_fault_is_found_with_its_evidence_and_a_remedy(ward: Ward, check: str) -> None:
    before = await ward.finding(check)
    assert before.verdict == "ok", before
    verdict, provoke = PROVOKED[check]
    await provoke(ward)
    found = await ward.finding(check)
    assert (found.verdict, bool(found.remedy)) == (verdict, True), found
    assert found.evidence != before.evidence


async def test_an_event_that_waits_in_the_outbox_is_found(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "OUTBOX_AGE", 0.0)
    await ward.run("INSERT INTO pgbus.outbox (topic) VALUES ('orders.placed')")
    assert (await ward.finding("outbox")).verdict == "fault"


async def test_a_lease_that_is_shorter_than_the_handlers_is_found(ward: Ward) -> None:
    await ward.rows.attempt(ward.listener_id, 1)
    await ward.run("UPDATE pgbus.history SET duration = 30")
    assert (await ward.finding("leases", lease=60.0)).verdict == "ok"
    assert (await ward.finding("leases", lease=10.0)).verdict == "warning"


async def test_a_period_that_is_kept_too_long_is_found_with_the_listener_that_keeps_it(ward: Ward) -> None:
    await ward.run(
        "SELECT pgbus.open_partition(1)", "UPDATE pgbus.partitions SET opened_at = now() - interval '2 days'"
    )
    assert (await ward.finding("retention")).verdict == "ok"
    assert (await ward.finding("retention", retention=86_400.0)).remedy == "pgbus run"
    await ward.rows.dead_letter(ward.listener_id, 1)
    assert "owed to mailer" in (await ward.finding("retention", retention=86_400.0)).evidence


async def test_an_open_transaction_is_found_with_the_command_that_ends_it(
    ward: Ward, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(horizon, "LONG", 0.0)
    other = await connect(ward.dsn)
    await other.execute("SET application_name = 'report'; BEGIN; SELECT count(*) FROM pgbus.events")
    found = await ward.finding("open-transactions")
    assert "of report" in found.evidence
    assert found.remedy == f"SELECT pg_terminate_backend({other.get_server_pid()})"


async def test_who_may_not_see_the_sessions_of_others_is_told_so(ward: Ward) -> None:
    async with an_auditor(ward) as auditor:
        found = await auditor.finding("open-transactions")
        assert found.verdict == "skipped"
        assert "GRANT pg_read_all_stats" in found.evidence
        examined = await examine(Config(dsn=auditor.dsn))
    assert {one.check for one in examined.findings if "pgbus_worker" in one.evidence} >= {"plan-of-claims"}


async def test_who_may_not_read_the_sequences_is_told_so(ward: Ward) -> None:
    await ward.run("INSERT INTO pgbus.outbox (topic) VALUES ('orders.placed'), ('orders.placed')")
    async with an_auditor(ward) as auditor:
        found = await auditor.finding("sequences")
        assert (found.verdict, "pgbus_admin" in found.evidence) == ("skipped", True)
        await ward.run("GRANT SELECT ON ALL SEQUENCES IN SCHEMA pgbus TO auditor")
        assert (await auditor.finding("sequences")).verdict == "ok"


async def test_a_prepared_transaction_is_found(ward: Ward, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(horizon, "LONG", 0.0)
    other = await connect(ward.dsn)
    await other.execute("CREATE TABLE mine (id int); BEGIN; INSERT INTO mine VALUES (1); PREPARE TRANSACTION 'it''s'")
    found = await ward.finding("prepared-transactions")
    assert found.remedy == "ROLLBACK PREPARED 'it''s'"
    await other.execute(found.remedy)
    assert (await ward.finding("prepared-transactions")).verdict == "ok"


async def test_a_slot_that_keeps_rows_and_wal_is_found(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    await ward.run("SELECT pg_create_logical_replication_slot('forgotten', 'pgoutput')", "SELECT pg_switch_wal()")
    try:
        assert {(await ward.finding(check)).verdict for check in ("slots", "kept-wal")} == {"ok"}
        monkeypatch.setattr(horizon, "OLD", 0)
        monkeypatch.setattr(horizon, "KEPT_WAL", 0)
        for check in ("slots", "kept-wal"):
            found = await ward.finding(check)
            assert found.remedy == "SELECT pg_drop_replication_slot('forgotten')"
    finally:
        await ward.run("SELECT pg_drop_replication_slot('forgotten')")


async def test_a_notification_that_does_not_arrive_in_time_is_found(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "LIMIT", 0.0)
    assert (await ward.finding("wakeup")).verdict == "fault"


async def test_a_queue_that_fills_up_is_found() -> None:
    with EmbeddedPostgres() as probe:
        if await version_of(probe.dsn()) < 17:
            pytest.skip("the queue of 8 GB cannot be made smaller before PostgreSQL 17")
    with EmbeddedPostgres(settings={"max_notify_queue_pages": 64}) as small:
        migrate.upgrade(small.dsn())
        hearing, telling = await asyncpg.connect(small.dsn()), await asyncpg.connect(small.dsn())
        ward = Ward(small.dsn(), telling)
        assert (await ward.finding("notification-queue")).verdict == "ok"
        await hearing.execute("LISTEN anything")
        await hearing.execute("BEGIN; SELECT 1")
        for number in range(20):
            await telling.execute(f"SELECT pg_notify('anything', '{number} ' || repeat('x', 7000))")
        assert (await ward.finding("notification-queue")).verdict == "warning"
        await hearing.close()
        await telling.close()


async def test_commits_that_wait_for_each_others_notifications_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "WAITING", 1)
    with EmbeddedPostgres(settings=NOBODY_ANSWERS) as own:
        migrate.upgrade(own.dsn())
        first, second, third = [await asyncpg.connect(own.dsn()) for _ in range(3)]
        await first.execute("SET synchronous_commit = on")  # so it waits for a standby that never comes, with the lock
        waits = asyncio.create_task(first.execute("CREATE TABLE first (); NOTIFY x"))

        async def has_the_lock() -> bool:
            return bool(await third.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"))

        await eventually(has_the_lock)  # else the second, which waits for no standby, may be the first
        queues = asyncio.create_task(second.execute("CREATE TABLE second (); NOTIFY x"))
        ward = Ward(own.dsn(), third)

        async def is_waiting() -> bool:
            return (await ward.finding("notification-lock")).verdict == "warning"

        await eventually(is_waiting)
        for connection in (first, second, third):
            connection.terminate()
        await asyncio.gather(waits, queues, return_exceptions=True)


async def test_a_server_that_runs_out_of_connections_is_found(ward: Ward) -> None:
    assert (await ward.finding("connection-room")).verdict == "ok"
    async with AsyncExitStack() as opened:
        for _ in range(31):
            connection = await asyncpg.connect(ward.dsn)
            opened.push_async_callback(connection.close)
        assert (await ward.finding("connection-room")).verdict in ("warning", "fault")


async def test_a_standby_is_found(own_server: EmbeddedPostgres) -> None:
    migrate.upgrade(own_server.dsn())
    own_server.stop()
    (own_server.datadir / "standby.signal").touch()
    own_server.start()
    found = {one.check: one for one in (await examine(Config(dsn=own_server.dsn()))).findings}
    assert found["standby"].verdict == "fault"
    assert found["wakeup"].verdict == "skipped"


async def test_a_clock_that_is_off_is_found(ward: Ward) -> None:
    for ahead, verdict in ((0, "ok"), (5, "warning"), (-5, "warning"), (3600, "fault")):
        found = await examine(Config(dsn=ward.dsn), clock=partial(clock_ahead, ahead))
        assert next(one.verdict for one in found.findings if one.check == "clock") == verdict


async def test_dead_rows_that_stay_are_found(ward: Ward, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "DEAD_ROWS", 1_000)
    other = await connect(ward.dsn)  # statistics arrive when a session ends
    await other.execute(
        "ALTER TABLE pgbus.outbox SET (autovacuum_enabled = false);"
        "INSERT INTO pgbus.outbox (topic) SELECT 'a' FROM generate_series(1, 2000); DELETE FROM pgbus.outbox"
    )
    await other.close()

    async def found() -> bool:
        return (await ward.finding("dead-rows")).verdict == "warning"

    await eventually(found)


async def test_rows_that_are_not_frozen_are_found(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await ward.finding("freezing")).verdict == "ok"
    monkeypatch.setattr(tables, "LAST_AGE", 1)
    assert (await ward.finding("freezing")).verdict == "fault"


async def test_an_encoding_that_cannot_store_every_event_is_found(ward_server: DatabaseServer) -> None:
    admin = await asyncpg.connect(ward_server.dsn)
    await admin.execute("CREATE DATABASE old_ascii ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    dsn = ward_server.dsn_of("old_ascii")
    try:
        migrate.upgrade(dsn)
        assert (await Ward(dsn, admin).finding("encoding")).verdict == "warning"
    finally:
        ward_server.drop_database("old_ascii")
        await admin.close()


async def test_a_collation_whose_rules_have_changed_is_found(ward: Ward) -> None:
    if await version_of(ward.dsn) < 15:
        found = await ward.finding("collation")
        assert found.verdict == "skipped"
        return
    if not await ward.connection.fetchval(
        "SELECT pg_database_collation_actual_version(oid) FROM pg_database WHERE datname = current_database()"
    ):
        pytest.skip("the collation of this server has no version")
    await ward.run("UPDATE pg_database SET datcollversion = '0.1' WHERE datname = current_database()")
    found = await ward.finding("collation")
    assert (found.verdict, "REINDEX DATABASE" in (found.remedy or "")) == ("fault", True)


async def test_a_sequence_that_lags_behind_its_ids_is_found(ward: Ward) -> None:
    await ward.run(
        "INSERT INTO pgbus.outbox (topic) VALUES ('orders.placed'), ('orders.placed')",
        "SELECT setval('pgbus.outbox_id_seq', 1)",
    )
    assert "behind" in (await ward.finding("sequences")).evidence


async def test_a_schema_that_lacks_what_is_read_is_not_called_silent(ward: Ward) -> None:
    await ward.run("ALTER VIEW pgbus.live_workers RENAME COLUMN is_asleep TO was_asleep")
    found = await ward.finding("leader")
    assert (found.verdict, "`pgbus db upgrade` mends an older one" in found.evidence) == ("skipped", True), found


async def test_a_check_that_the_server_does_not_answer_in_time_is_skipped_and_hides_no_other(
    ward: Ward, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "PATIENCE", 1.5)
    other = await connect(ward.dsn)
    await other.execute("BEGIN; LOCK TABLE pgbus.schedules IN ACCESS EXCLUSIVE MODE")
    found = {one.check: one for one in (await examine(Config(dsn=ward.dsn))).findings}
    assert found["late-schedules"].verdict == "skipped"
    assert found["wakeup"].verdict == "ok"


# ------------------------------------------------------------------------------------------------- how it gets ill


@asynccontextmanager
async def an_auditor(ward: Ward) -> AsyncIterator[Ward]:
    """The same bus, examined by a member of `pgbus_reader`."""
    await ward.run(
        "DROP ROLE IF EXISTS auditor", "CREATE ROLE auditor LOGIN PASSWORD 'pw'", "GRANT pgbus_reader TO auditor"
    )
    yield Ward(ward.dsn.replace("postgres@", "auditor:pw@", 1), ward.connection)
    await ward.run("DROP OWNED BY auditor", "DROP ROLE auditor")


def clock_ahead(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


async def version_of(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return connection.get_server_version().major
    finally:
        await connection.close()


async def add_worker(ward: Ward, *, version: str) -> None:
    worker_id = await ward.rows.worker("worker-2", "mailer")
    await ward.connection.execute("UPDATE pgbus.workers SET version = $2 WHERE id = $1", worker_id, version)


async def owe(ward: Ward, listener: str, *, state: str = "active", logged_at: datetime | None = None) -> None:
    """An event that a listener has yet to handle."""
    known = listener == "mailer"
    listener_id = ward.listener_id if known else await ward.rows.listener(listener, "orders.placed", state=state)
    await ward.rows.event(2, logged_at=logged_at)
    await ward.rows.delivery(listener_id, 2)


async def fail(ward: Ward, *, times: int) -> None:
    for number in range(times):
        await ward.rows.attempt(ward.listener_id, 1, "retry", attempt=number + 1, error="ValueError: no")


async def hear_nothing(ward: Ward) -> None:
    await ward.rows.listener("typo", "order.placed")
    await ward.run(f"UPDATE pgbus.listeners SET registered_at = {HOUR_AGO} WHERE listener_name = 'typo'")


async def fail_run(ward: Ward) -> None:
    await ward.run(
        "INSERT INTO pgbus.schedules (schedule_name, rule, next_run_at)"
        " VALUES ('nightly', 'daily', now() + interval '1 day')",
        "INSERT INTO pgbus.schedule_runs (run_id, schedule_name, due_at, attempt, worker, started_at, finished_at,"
        " outcome, error) VALUES (gen_random_uuid(), 'nightly', now(), 1, 'worker-1', now(), now(), 'failed', 'no')",
    )


async def leave_unanswered(ward: Ward) -> None:
    await ward.run(
        "INSERT INTO pgbus.rpc_requests (call_id, procedure, arguments, caller, caller_name, deadline)"
        " VALUES (gen_random_uuid(), 'shop.prices.of', '{}', 'c', 'web', now() - interval '1 second')"
    )


async def set_for_database(ward: Ward, setting: str) -> None:
    name = await ward.connection.fetchval("SELECT current_database()")
    await ward.run(f'ALTER DATABASE "{name}" SET {setting}')
