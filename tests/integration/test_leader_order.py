"""The order in which the leader finds events, against publishers whose transactions end in any order and never."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest

from pgbus import migrate
from pgbus.database.statements import operations
from pgbus.database.statements.moving import Logged
from pgbus.database.statements.sequencer import Waiting
from pgbus.database.store import Store
from pgbus.embedded import EmbeddedPostgres, find_binaries
from pgbus.errors import EmbeddedPostgresError
from pgbus.leader.frontier import Snapshot
from pgbus.leader.mover import Look, Mover
from tests.conftest import Connect
from tests.support import eventually
from tests.support.leading import Leading
from tests.support.order import FencedByXmax, LookingTwice, faults
from tests.support.rows import Rows

INSERT = "INSERT INTO pgbus.outbox (topic, key, payload) VALUES ('a.b', $1, jsonb_build_object('n', $2::integer))"


class Stage:
    """Publishers, a leader that can be replaced, and who looks at the result."""

    def __init__(self, dsn: str, connect: Connect) -> None:
        self.dsn = dsn
        self.connect = connect
        self.expects_one = False
        self.published = 0

    async def open(self, kind: type[Mover] = Mover) -> Stage:
        self.auditor = await self.connect(self.dsn)
        self.listener_id = await Rows(self.auditor).listener("all", "**")
        self.kind = kind
        await self.change_leader()
        return self

    async def change_leader(self) -> None:
        leading = await self.connect(self.dsn)
        self.leader = await Leading.start(leading, kind=self.kind, expects_one=self.expects_one)

    async def publisher(self) -> Publisher:
        return Publisher(self, await self.connect(self.dsn))

    async def faults(self) -> list[str]:
        for _ in range(3):
            await self.leader.drain()
        return await faults(self.auditor, published=self.published, listener_id=self.listener_id)


class Publisher:
    """A session that publishes, in a transaction or each event in one of its own."""

    def __init__(self, stage: Stage, connection: asyncpg.Connection) -> None:
        self.stage = stage
        self.connection = connection
        self.uncommitted = 0

    async def publish(self, key: str | None = None, n: int = 0) -> None:
        await self.connection.execute(INSERT, key, n)
        self.uncommitted += 1
        if not self.connection.is_in_transaction():
            self._count()

    async def begin(self) -> None:
        await self.connection.execute("BEGIN")

    async def commit(self) -> None:
        await self.connection.execute("COMMIT")
        self._count()

    async def rollback(self) -> None:
        await self.connection.execute("ROLLBACK")
        self.uncommitted = 0

    def _count(self) -> None:
        self.stage.published += self.uncommitted
        self.uncommitted = 0


@pytest.fixture(params=[False, True], ids=["after a look", "after a sleep"])
async def stage(database: str, connect: Connect, request: pytest.FixtureRequest) -> Stage:
    stage = Stage(database, connect)
    stage.expects_one = request.param
    return stage


@pytest.fixture
async def preparing_stage(connect: Connect) -> AsyncIterator[Stage]:
    """On a server on which transactions can be prepared."""
    with _preparing_server() as server:
        await asyncio.to_thread(migrate.upgrade, server.dsn())
        yield Stage(server.dsn(), connect)


def _preparing_server() -> EmbeddedPostgres:
    try:
        find_binaries()
    except EmbeddedPostgresError as error:
        pytest.skip(f"needs PostgreSQL's programs: {error}")
    return EmbeddedPostgres(settings={"max_prepared_transactions": 5})


async def publish_above_the_leaders_xmax(stage: Stage) -> None:
    """The look sees ids 1 and 3. The transaction that has 2 has the highest xid of all, and so lies above xmax."""
    first, second = await stage.publisher(), await stage.publisher()
    await first.begin()
    await first.publish()
    await second.begin()
    await second.publish()
    await first.publish()
    await first.commit()
    await stage.leader.look()
    await stage.leader.look()
    await second.commit()


async def test_an_event_whose_owner_lies_above_the_looks_xmax_is_found(stage: Stage) -> None:
    await stage.open()
    await publish_above_the_leaders_xmax(stage)
    assert await stage.faults() == []


async def test_a_leader_that_took_xmax_for_a_fence_would_lose_that_event(stage: Stage) -> None:
    await stage.open(FencedByXmax)
    found: list[str] = []
    for _ in range(10):
        await publish_above_the_leaders_xmax(stage)
        # Whoever else ends a transaction on this server, as autovacuum does, lifts xmax: then nothing is lost.
        if found := await stage.faults():
            break
    assert found == [f"1 of {stage.published} are left in the outbox"]


class TornLeader(LookingTwice):
    """Between its two statements a transaction ends."""

    publisher: Publisher | None = None

    async def between(self) -> None:
        if self.publisher:
            await self.publisher.commit()
            self.publisher = None


async def end_a_transaction_with_a_hole_and_a_new_event(stage: Stage) -> None:
    """It has published before and after what the leader has seen; both events have one key."""
    slow, quick = await stage.publisher(), await stage.publisher()
    await slow.begin()
    await slow.publish("k", 1)
    await quick.publish()
    await stage.leader.look()
    await slow.publish("k", 2)
    if isinstance(stage.leader.mover, TornLeader):
        stage.leader.mover.publisher = slow
    else:
        await slow.commit()
    await stage.leader.look()


async def test_the_events_of_a_transaction_are_found_together(stage: Stage) -> None:
    await stage.open()
    await end_a_transaction_with_a_hole_and_a_new_event(stage)
    assert await stage.faults() == []


async def test_a_leader_that_read_holes_in_another_snapshot_would_reverse_events(
    stage: Stage,
) -> None:
    await stage.open(TornLeader)
    await end_a_transaction_with_a_hole_and_a_new_event(stage)
    assert await stage.faults() == ["1 came before an earlier event of their key"]


async def test_an_event_is_found_whose_transaction_outlives_two_leaders(stage: Stage) -> None:
    await stage.open()
    slow, undone, quick = await stage.publisher(), await stage.publisher(), await stage.publisher()
    await slow.begin()
    await slow.publish()
    await undone.begin()
    await undone.publish()
    await undone.rollback()
    await quick.publish()
    await stage.leader.look()
    for _ in range(2):
        await stage.change_leader()
        await stage.leader.look()
        await quick.publish()
        await stage.leader.look()
    assert stage.published == 3
    await slow.connection.execute("SAVEPOINT late")
    await slow.publish()
    await slow.commit()
    assert await stage.faults() == []
    assert stage.leader.mover.frontier.holes == ()


async def test_a_transaction_with_200_savepoints_is_found_whole(stage: Stage) -> None:
    await stage.open()
    slow, quick = await stage.publisher(), await stage.publisher()
    await slow.begin()
    for number in range(200):
        await slow.connection.execute("SAVEPOINT one")
        await slow.publish()
        if number % 3:
            await slow.connection.execute("RELEASE SAVEPOINT one")
        else:
            await slow.connection.execute("ROLLBACK TO SAVEPOINT one")
            slow.uncommitted -= 1
        if number % 20 == 0:
            await quick.publish()
            await stage.leader.look()
        if number == 100:
            await stage.change_leader()
    await stage.leader.look()
    await slow.commit()
    assert await stage.faults() == []


async def test_a_prepared_transaction_is_a_possible_owner_until_it_is_committed(preparing_stage: Stage) -> None:
    stage = await preparing_stage.open()
    # The default has a transaction notify on such a server, and so refuses to have it prepared: do without its NOTIFY.
    await stage.auditor.execute("ALTER TABLE pgbus.outbox ALTER wake DROP DEFAULT")
    prepared, quick = await stage.publisher(), await stage.publisher()
    await prepared.begin()
    await prepared.connection.execute("SELECT pg_current_xact_id()")
    await prepared.publish()
    await prepared.connection.execute("PREPARE TRANSACTION 'sale'")
    for _ in range(3):
        await quick.publish()
        await stage.leader.look()
    await stage.change_leader()
    await stage.leader.look()
    await prepared.connection.execute("COMMIT PREPARED 'sale'")
    prepared._count()
    assert await stage.faults() == []


async def test_the_holes_of_a_session_that_was_killed_are_dropped(stage: Stage) -> None:
    await stage.open()
    killed, quick = await stage.publisher(), await stage.publisher()
    await killed.begin()
    await killed.publish()
    for _ in range(3):
        await quick.publish()
        await stage.leader.look()
    assert stage.leader.mover.frontier.holes != ()
    await stage.auditor.execute("SELECT pg_terminate_backend($1)", killed.connection.get_server_pid())

    async def gone() -> bool:
        await stage.leader.look()
        return stage.leader.mover.frontier.holes == ()

    await eventually(gone)
    await quick.publish()
    assert await stage.faults() == []


async def test_a_large_transaction_is_taken_from_its_holes_in_batches(stage: Stage) -> None:
    await stage.open()
    slow, quick = await stage.publisher(), await stage.publisher()
    await slow.begin()
    for number in range(3):
        await slow.connection.execute(
            "INSERT INTO pgbus.outbox (topic, key, payload) "
            "SELECT 'a.b', 'k', jsonb_build_object('n', $1 + n) FROM generate_series(1, 25) AS n",
            number * 25,
        )
        slow.uncommitted += 25
        await quick.publish()
        await stage.leader.look()
    await slow.commit()
    await quick.publish()
    moved = []
    for _ in range(9):
        stage.leader.mover.rows = 10
        moved.append((await stage.leader.look()).moved)
    assert moved == [10] * 7 + [6, 0]
    assert await stage.faults() == []


async def test_the_leader_passes_rows_above_its_frontier_that_stay_uncommitted(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgbus.leader.mover.SLOW_READ", 0.0)
    await stage.open()
    slow = await stage.publisher()
    await slow.begin()
    for _ in range(3):
        await slow.publish()
    last_id = await stage.auditor.fetchval("SELECT last_value FROM pgbus.outbox_id_seq")
    await stage.leader.look()
    assert stage.leader.mover.frontier.high == last_id
    await stage.leader.look()
    await slow.commit()
    assert await stage.faults() == []


async def test_a_new_leader_sets_a_sequence_forward_that_is_behind_its_rows(stage: Stage) -> None:
    await stage.open()
    publisher = await stage.publisher()
    await stage.auditor.execute(
        "INSERT INTO pgbus.outbox (id, topic) OVERRIDING SYSTEM VALUE SELECT n, 'a.b' FROM generate_series(11, 20) AS n"
    )
    stage.published += 10
    await stage.change_leader()
    await stage.leader.look()
    for _ in range(3):
        await publisher.publish()
        await stage.leader.look()
    assert await stage.faults() == []


async def test_scheduled_events_that_commit_late_are_found_in_their_holes(stage: Stage) -> None:
    await stage.open()
    slow, quick = await stage.publisher(), await stage.publisher()
    await slow.begin()
    await slow.connection.execute("INSERT INTO pgbus.outbox (topic, deliver_at) VALUES ('a.b', now())")
    slow.uncommitted += 1
    for _ in range(3):
        await quick.publish()
        await stage.leader.look()
    await slow.commit()
    assert await stage.faults() == []


async def test_routes_that_change_between_the_read_and_the_write_hold_for_the_write(stage: Stage) -> None:
    """Neither is a new listener passed over, nor are runs written for one that is gone."""
    await stage.open()
    rows = Rows(stage.auditor)
    gone = await rows.listener("gone", "a.b")
    publisher = await stage.publisher()

    class Interrupted(Mover):
        async def _move(self, rows_read: Sequence[Waiting], snapshot: Snapshot, logged: Logged | None) -> Look:
            if not changed:
                await stage.auditor.execute("DELETE FROM pgbus.listeners WHERE id = $1", gone)
                changed.append(await rows.listener("new", "a.*"))
            return await super()._move(rows_read, snapshot, logged)

    for count in (1, 2):
        changed: list[int] = []
        stage.kind = Interrupted
        await stage.change_leader()
        for _ in range(count):
            await publisher.publish()
        assert (await stage.leader.look()).moved == count
        owed = await stage.auditor.fetch("SELECT DISTINCT listener_id FROM pgbus.deliveries ORDER BY 1")
        assert [row[0] for row in owed] == [stage.listener_id, changed[0]]
        gone = changed[0]
        await stage.auditor.execute("TRUNCATE pgbus.deliveries, pgbus.events")
        await stage.auditor.execute("UPDATE pgbus.listeners SET listener_name = id::text WHERE id = $1", gone)


async def test_a_listener_that_is_removed_while_an_event_is_logged_is_owed_nothing(stage: Stage) -> None:
    """The leader cannot see that yet, and writes by its old routes; it mends that when it reads the new ones."""
    await stage.open()
    rows = Rows(stage.auditor)
    publisher, operator = await stage.publisher(), await stage.connect(stage.dsn)
    store = Store(operator, namespace="pgbus")
    owed = "SELECT count(*) FROM pgbus.deliveries WHERE listener_id = $1"
    for events, lanes in ((1, None), (2, None), (2, 4)):
        gone = await rows.listener("gone", "a.*", lanes=lanes)
        await stage.change_leader()
        stage.leader.neighbours.listener_ids = [gone]
        async with operator.transaction():
            number = await operations.begin_operation(store, "remove", {"listener": "gone", "force": True}, {})
            assert (await operations.continue_operation(store, number, batch=100)).state == "done"
            for _ in range(events):
                await publisher.publish()
            assert (await stage.leader.look()).moved == events
        assert await stage.auditor.fetchval(owed, gone) > 0
        await publisher.publish()
        assert (await stage.leader.look()).moved == 1
        assert await stage.auditor.fetchval(owed, gone) == 0
        assert await stage.auditor.fetchval("SELECT count(*) FROM pgbus.route_changes") == 0
    stage.leader.neighbours.listener_ids = []
    assert await stage.faults() == []


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE pgbus.listeners SET state = 'paused'",
        "UPDATE pgbus.listeners SET lanes = 4",
        "UPDATE pgbus.listeners SET cursor = 0",
        "DELETE FROM pgbus.subscriptions",
        "UPDATE pgbus.subscriptions SET pattern = 'x'",
        "DELETE FROM pgbus.listeners",
    ],
)
async def test_each_change_of_who_hears_what_is_noted(stage: Stage, change: str) -> None:
    await stage.open()
    noted = "SELECT count(*) FROM pgbus.route_changes"
    assert await stage.auditor.fetchval(noted) == 0, "the leader has read the listeners"
    await stage.auditor.execute("UPDATE pgbus.listeners SET last_seen_at = now(), lanes = NULL")
    assert await stage.auditor.fetchval(noted) == 0, "which workers do every few seconds"
    await stage.auditor.execute(change)
    assert await stage.auditor.fetchval(noted) > 0


async def test_a_look_takes_one_statement_and_one_more_to_write(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The round trips and fixed costs of a look: whoever adds to them shall mean it."""
    monkeypatch.setattr("pgbus.leader.mover.SLOW_READ", 60.0)
    await stage.open()
    slow, quick = await stage.publisher(), await stage.publisher()
    run: list[str] = []
    leading = await stage.connect(stage.dsn)
    leading.add_query_logger(lambda query: run.append(query.query))
    stage.leader = await Leading.start(leading)

    async def look(events: int) -> int:
        """How many statements a look takes that moves so many events."""
        await asyncio.sleep(0)  # asyncpg calls its loggers by way of the loop
        run.clear()
        assert (await stage.leader.look()).moved == events
        await asyncio.sleep(0)
        return len(run)

    async def count(events: int) -> int:
        for _ in range(events):
            await quick.publish()
        await stage.leader.look()
        for _ in range(events):
            await quick.publish()
        return await look(events)

    assert [await count(events) for events in (0, 1, 2, 30)] == [1, 2, 2, 2]
    await slow.begin()
    await slow.publish()
    await quick.publish()
    for _ in range(3):
        await stage.leader.look()
    assert [await count(events) for events in (0, 1, 30)] == [1, 2, 2], "beside an open transaction"
    await slow.commit()
    assert await look(1) == 3, "it found by a first read that the transaction had ended"
    assert await stage.faults() == []
