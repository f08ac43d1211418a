"""What a publisher's transaction does to wake the leader."""

from __future__ import annotations

from collections.abc import Iterator

import asyncpg
import pytest

from pgbus import migrate
from pgbus.database.statements import sequencer
from pgbus.database.store import Store
from pgbus.embedded import EmbeddedPostgres, find_binaries
from pgbus.errors import EmbeddedPostgresError
from tests.conftest import Connect
from tests.support import eventually


@pytest.fixture
async def leader(database: str, connect: Connect) -> Store:
    """The statements of a leader, on its session."""
    return Store(await connect(database), namespace="pgbus")


@pytest.fixture
async def publisher(database: str, connect: Connect) -> asyncpg.Connection:
    return await connect(database)


@pytest.fixture
def preparing_server() -> Iterator[EmbeddedPostgres]:
    """A server on which transactions can be prepared."""
    try:
        find_binaries()
    except EmbeddedPostgresError as error:
        pytest.skip(f"needs PostgreSQL's programs: {error}")
    with EmbeddedPostgres(settings={"max_prepared_transactions": 5}) as private:
        yield private


async def publish(connection: asyncpg.Connection) -> None:
    await connection.execute("INSERT INTO pgbus.outbox (topic) VALUES ('a.b')")


async def held_locks(connection: asyncpg.Connection) -> int:
    count: int = await connection.fetchval(
        "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'"
    )
    return count


async def listen(connection: asyncpg.Connection) -> list[str]:
    heard: list[str] = []
    await connection.add_listener("pgbus_wake", lambda *args: heard.append(args[3]))
    return heard


async def sleep(leader: Store) -> int:
    wake_slot = await sequencer.try_sleep(leader)
    assert wake_slot.armed
    return wake_slot.slot


async def test_a_transaction_older_than_a_second_shares_no_more_slots_row_by_row(
    leader: Store, publisher: asyncpg.Connection
) -> None:
    async def is_old() -> bool:
        old: bool = await publisher.fetchval("SELECT clock_timestamp() - now() > interval '1 second'")
        return old

    heard = await listen(publisher)
    async with publisher.transaction():
        await publish(publisher)
        await eventually(is_old)
        for _ in range(20):
            await sequencer.advance_wake_slot(leader)
            await publish(publisher)
        assert await held_locks(publisher) == 1
        assert len(await sequencer.find_held_slots(leader)) == 1
    await eventually(lambda: heard == [""])


INSERTS = {
    "one row": "INSERT INTO pgbus.outbox (topic) VALUES ('a.b')",
    "rows": "INSERT INTO pgbus.outbox (payload, topic) VALUES ('{}', 'a.b'), ('{}', 'a.b')",
    "nothing but defaults of the others": "INSERT INTO pgbus.outbox (topic) SELECT 'a.b'",
    "a query": "INSERT INTO pgbus.outbox (topic) SELECT 'a.b' FROM generate_series(1, 3)",
    "a sorted query": "INSERT INTO pgbus.outbox (topic) SELECT 'a.b' FROM generate_series(1, 9) AS n ORDER BY -n",
    "a union": "INSERT INTO pgbus.outbox (topic) SELECT 'a.b' UNION ALL SELECT 'a.c' FROM pgbus.listeners",
    "a subselect": "INSERT INTO pgbus.outbox (topic, wake) SELECT 'a.b', (SELECT pgbus.wake_leader())"
    " FROM generate_series(1, 3)",
    "a sorted query with a subselect": "INSERT INTO pgbus.outbox (topic, wake)"
    " SELECT 'a.b', (SELECT pgbus.wake_leader()) FROM generate_series(1, 3) AS n ORDER BY -n",
    "a WITH": "WITH i AS (INSERT INTO pgbus.outbox (topic) VALUES ('a.b') RETURNING 1) SELECT FROM i",
    "a conflict": "INSERT INTO pgbus.outbox (topic) VALUES ('a.b') ON CONFLICT DO NOTHING",
    "a function": "DO $$ BEGIN INSERT INTO pgbus.outbox (topic) VALUES ('a.b'); END $$",
    "returning": "INSERT INTO pgbus.outbox (topic) VALUES ('a.b') RETURNING id, wake",
}
# As pgbus.wake_leader, and it notes which outbox id has been assigned by then.
NOTING = """
CREATE FUNCTION pgbus.wake_leader_and_note() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('pgbus_test.first', true) = '' THEN
        PERFORM set_config('pgbus_test.first', pg_sequence_last_value('pgbus.outbox_id_seq')::text, false);
    END IF;
    RETURN NULL;
END $$;
ALTER FUNCTION pgbus.wake_leader() RENAME TO wake_leader_quietly;
ALTER FUNCTION pgbus.wake_leader_and_note() RENAME TO wake_leader;
ALTER TABLE pgbus.outbox ALTER wake SET DEFAULT pgbus.wake_leader();
SET pgbus_test.first = '';
INSERT INTO pgbus.outbox (topic) VALUES ('a.b');
"""


@pytest.mark.parametrize("insert", INSERTS.values(), ids=INSERTS.keys())
async def test_a_transaction_has_its_xid_before_its_first_outbox_id(publisher: asyncpg.Connection, insert: str) -> None:
    await publisher.execute(NOTING)
    before = await publisher.fetchval("SELECT max(id) FROM pgbus.outbox")
    await publisher.execute("SET pgbus_test.first = ''")
    await publisher.execute(insert)
    assert await publisher.fetchval("SELECT current_setting('pgbus_test.first')") == str(before)
    assert await publisher.fetchval("SELECT min(id) FROM pgbus.outbox WHERE id > $1", before) == before + 1


async def test_a_copy_has_its_xid_before_its_first_outbox_id(publisher: asyncpg.Connection) -> None:
    await publisher.execute(NOTING)
    await publisher.execute("SET pgbus_test.first = ''")
    await publisher.copy_records_to_table("outbox", schema_name="pgbus", records=[("a.b",)] * 3, columns=["topic"])
    assert await publisher.fetchval("SELECT current_setting('pgbus_test.first')") == "1"


async def test_waking_is_part_of_the_plan_of_an_insert(publisher: asyncpg.Connection) -> None:
    plan = "\n".join(row[0] for row in await publisher.fetch(f"EXPLAIN (VERBOSE) {INSERTS['one row']}"))
    assert "pg_try_advisory_xact_lock_shared" in plan
    assert "wake_leader" not in plan
    assert await publisher.fetchval("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'pgbus.outbox'::regclass") == 0


async def test_a_publisher_of_a_sleeping_bus_notifies_and_shares_nothing(
    leader: Store, publisher: asyncpg.Connection
) -> None:
    heard = await listen(publisher)
    await sequencer.lie_down(leader)
    async with publisher.transaction():
        await publish(publisher)
        assert await held_locks(publisher) == 0
    await eventually(lambda: heard == [""])


async def test_a_prepared_transaction_may_not_publish_awake_or_asleep(
    preparing_server: EmbeddedPostgres, connect: Connect
) -> None:
    migrate.upgrade(preparing_server.dsn())
    publisher = await connect(preparing_server.dsn())
    leader = Store(await connect(preparing_server.dsn()), namespace="pgbus")

    async def prepare() -> None:
        await publisher.execute("BEGIN")
        await publish(publisher)
        with pytest.raises(asyncpg.FeatureNotSupportedError, match="cannot PREPARE"):
            await publisher.execute("PREPARE TRANSACTION 'sale'")

    await prepare()
    await sleep(leader)
    await prepare()
    assert await publisher.fetchval("SELECT count(*) FROM pgbus.outbox") == 0
