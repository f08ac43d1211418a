"""`open_partition` and `drop_partition`: the two ends of the log."""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from tests.conftest import Connect
from tests.support import eventually
from tests.support.rows import Rows

SIZE = 1_000_000_000


@pytest.fixture
def rows(connection: asyncpg.Connection) -> Rows:
    return Rows(connection)


@pytest.fixture
async def grown(connection: asyncpg.Connection, rows: Rows) -> Rows:
    """A log with one event in each of the partitions 0, 1 and 2."""
    for number in range(3):
        await connection.execute("SELECT pgbus.open_partition($1)", number)
        await rows.event(number * SIZE + 7)
    return rows


async def partitions(connection: asyncpg.Connection) -> list[str]:
    """Every partition there is, with the numbers that the bus believes there are."""
    tables: list[str] = await connection.fetchval(
        """
        SELECT array_agg(inhrelid::regclass::text ORDER BY inhrelid::regclass::text)
        FROM pg_inherits
        WHERE inhparent IN ('pgbus.events'::regclass, 'pgbus.history'::regclass)
        """
    )
    numbers = await connection.fetchval("SELECT array_agg(number ORDER BY number) FROM pgbus.partitions")
    assert tables == [f"pgbus.{parent}_p{number}" for parent in ("events", "history") for number in numbers]
    return tables


async def open_partition(connection: asyncpg.Connection, number: int) -> bool:
    opened: bool = await connection.fetchval("SELECT pgbus.open_partition($1)", number)
    return opened


async def drop_partition(connection: asyncpg.Connection, number: int) -> bool:
    dropped: bool = await connection.fetchval("SELECT pgbus.drop_partition($1)", number)
    return dropped


async def test_a_partition_is_dropped_only_where_what_was_committed_meanwhile_is_seen(
    connection: asyncpg.Connection, grown: Rows, database: str, connect: Connect
) -> None:
    other = await connect(database)
    listener_id = await grown.listener("mail")
    async with other.transaction(isolation="repeatable_read"):
        await other.execute("SELECT 1 FROM pgbus.workers")
        await grown.delivery(listener_id, 7)
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="READ COMMITTED"):
            await drop_partition(other, 0)
    assert "pgbus.events_p0" in await partitions(connection)


async def test_a_database_begins_with_the_first_partition(connection: asyncpg.Connection) -> None:
    assert await partitions(connection) == ["pgbus.events_p0", "pgbus.history_p0"]


async def test_an_open_partition_takes_events_and_history_at_both_its_ends(
    connection: asyncpg.Connection, rows: Rows
) -> None:
    assert await open_partition(connection, 2)
    listener_id = await rows.listener("ship")
    for position in (2 * SIZE, 3 * SIZE - 1):
        await rows.event(position)
        await rows.attempt(listener_id, position)
    for position in (2 * SIZE - 1, 3 * SIZE):
        with pytest.raises(asyncpg.CheckViolationError, match="no partition"):
            await rows.event(position)
    for table in ("events", "history"):
        assert await connection.fetchval(f"SELECT count(*) FROM pgbus.{table}_p2") == 2


async def test_a_partition_has_the_indexes_and_checks_of_its_parent(connection: asyncpg.Connection) -> None:
    await open_partition(connection, 1)
    for parent in ("events", "history"):
        unattached = await connection.fetchval(
            """
            SELECT count(*) FROM pg_index AS i
            WHERE i.indrelid = $1::text::regclass
              AND NOT EXISTS (SELECT FROM pg_inherits AS h
                              JOIN pg_index AS c ON c.indexrelid = h.inhrelid
                              WHERE h.inhparent = i.indexrelid AND c.indrelid = ($1 || '_p1')::regclass)
            """,
            f"pgbus.{parent}",
        )
        assert unattached == 0
    with pytest.raises(asyncpg.CheckViolationError, match="history_outcome_is_known"):
        await Rows(connection).attempt(1, SIZE, "perhaps")


async def test_opening_an_open_partition_changes_nothing(connection: asyncpg.Connection) -> None:
    assert await open_partition(connection, 1)
    before = await partitions(connection)
    assert not await open_partition(connection, 1)
    assert await partitions(connection) == before


async def test_a_partition_has_a_number_of_zero_or_more(connection: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="partitions_number_is_not_negative"):
        await open_partition(connection, -1)


async def test_of_two_who_open_a_partition_one_waits_and_finds_it_open(
    connection: asyncpg.Connection, database: str, connect: Connect
) -> None:
    other, onlooker = await connect(database), await connect(database)
    await wait_patiently(connection)
    async with connection.transaction():
        assert await open_partition(connection, 1)
        second = asyncio.create_task(open_partition(other, 1))
        await eventually(lambda: waits_for_a_lock(onlooker, other))
    assert not await second


async def test_opening_a_partition_and_using_the_log_do_not_wait_for_each_other(
    connection: asyncpg.Connection, database: str, connect: Connect
) -> None:
    user, other = await connect(database), await connect(database)
    async with user.transaction():
        await user.execute("SELECT count(*) FROM pgbus.event_history")
        await Rows(user).event(1)
        async with connection.transaction():
            await open_partition(connection, 1)
            # Another one comes while the partition is being attached, and would fail rather than wait.
            await other.execute("SET lock_timeout = '1ms'")
            await Rows(other).event(2)
            await other.execute("SELECT count(*) FROM pgbus.event_history")


async def test_dropping_takes_a_partition_out_of_the_log_and_of_history(
    grown: Rows, connection: asyncpg.Connection
) -> None:
    listener_id = await grown.listener("ship")
    await grown.attempt(listener_id, 7)
    await grown.attempt(listener_id, SIZE + 7)
    assert await drop_partition(connection, 0)
    assert await partitions(connection) == [f"pgbus.{parent}_p{n}" for parent in ("events", "history") for n in (1, 2)]
    positions = await connection.fetchval("SELECT array_agg(position ORDER BY position) FROM pgbus.event_history")
    assert positions == [SIZE + 7, 2 * SIZE + 7]
    assert not await drop_partition(connection, 0)


async def test_the_end_of_the_log_is_not_dropped(grown: Rows, connection: asyncpg.Connection) -> None:
    await open_partition(connection, 3)
    for number in (2, 3):
        with pytest.raises(asyncpg.ObjectInUseError, match=rf"partition {number} holds the end of the log"):
            await drop_partition(connection, number)
    assert len(await partitions(connection)) == 8


async def owe_a_delivery(rows: Rows, listener_id: int) -> None:
    await rows.delivery(listener_id, SIZE + 7)


async def owe_a_claimed_delivery(rows: Rows, listener_id: int) -> None:
    await rows.delivery(listener_id, SIZE + 7, worker_id=await rows.worker("worker-1"))


async def owe_a_run_that_ends_in_it(rows: Rows, listener_id: int) -> None:
    await rows.delivery(listener_id, 5, SIZE, positions=[5, SIZE])


async def owe_a_run_that_begins_in_it(rows: Rows, listener_id: int) -> None:
    await rows.delivery(listener_id, 2 * SIZE - 1, 2 * SIZE + 7, positions=[2 * SIZE - 1, 2 * SIZE + 7])


async def owe_a_run_around_it(rows: Rows, listener_id: int) -> None:
    await rows.delivery(listener_id, SIZE - 1, 2 * SIZE, positions=[SIZE - 1, SIZE + 7, 2 * SIZE])


async def owe_its_first_dead_letter(rows: Rows, listener_id: int) -> None:
    await rows.dead_letter(listener_id, SIZE)


async def owe_its_last_dead_letter(rows: Rows, listener_id: int) -> None:
    await rows.dead_letter(listener_id, 2 * SIZE - 1)


async def owe_the_log_from_before_it(rows: Rows, listener_id: int) -> None:
    await rows.connection.execute("UPDATE pgbus.listeners SET cursor = 0 WHERE id = $1", listener_id)


async def owe_the_log_from_its_last_position(rows: Rows, listener_id: int) -> None:
    await rows.connection.execute("UPDATE pgbus.listeners SET cursor = $2 WHERE id = $1", listener_id, 2 * SIZE - 1)


@pytest.mark.parametrize(
    "owe",
    [
        owe_a_delivery,
        owe_a_claimed_delivery,
        owe_a_run_that_ends_in_it,
        owe_a_run_that_begins_in_it,
        owe_a_run_around_it,
        owe_its_first_dead_letter,
        owe_its_last_dead_letter,
        owe_the_log_from_before_it,
        owe_the_log_from_its_last_position,
    ],
)
async def test_a_partition_that_is_owed_to_a_listener_is_not_dropped(
    grown: Rows, connection: asyncpg.Connection, owe: Callable[[Rows, int], Awaitable[None]]
) -> None:
    await owe(grown, await grown.listener("ship"))
    with pytest.raises(asyncpg.ObjectInUseError, match=r'events that are still owed to the listener "ship"'):
        await drop_partition(connection, 1)
    assert len(await partitions(connection)) == 6


async def test_a_partition_that_nobody_needs_is_dropped_beside_debts_in_others(
    grown: Rows, connection: asyncpg.Connection
) -> None:
    behind, live = await grown.listener("bill", cursor=2 * SIZE), await grown.listener("ship")
    await grown.delivery(live, SIZE - 1)
    await grown.delivery(behind, 2 * SIZE)
    await grown.dead_letter(live, SIZE - 1)
    await grown.dead_letter(live, 2 * SIZE)
    assert await drop_partition(connection, 1)


async def test_dropping_gives_up_when_someone_reads_the_log_for_long(
    grown: Rows, connection: asyncpg.Connection, database: str, connect: Connect
) -> None:
    reader = await connect(database)
    async with reader.transaction():
        await reader.execute("SELECT count(*) FROM pgbus.events")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await drop_partition(connection, 0)
    assert await drop_partition(connection, 0)


async def test_a_listener_that_is_moved_back_at_the_same_time_keeps_its_events(
    grown: Rows, connection: asyncpg.Connection, database: str, connect: Connect
) -> None:
    await grown.listener("ship")
    operator, onlooker = await connect(database), await connect(database)
    await wait_patiently(connection)
    async with operator.transaction():
        await operator.fetchval("SELECT max(position) FROM pgbus.events")
        drop = asyncio.create_task(drop_partition(connection, 0))
        await eventually(lambda: waits_for_a_lock(onlooker, connection))
        await operator.execute("UPDATE pgbus.listeners SET cursor = 0")
    with pytest.raises(asyncpg.ObjectInUseError, match="still owed"):
        await drop


async def wait_patiently(connection: asyncpg.Connection) -> None:
    """Let both functions wait long enough for a test to see it, on however slow a machine."""
    for function in ("open_partition", "drop_partition"):
        await connection.execute(f"ALTER FUNCTION pgbus.{function} SET lock_timeout = '60s'")


async def waits_for_a_lock(onlooker: asyncpg.Connection, waiting: asyncpg.Connection) -> bool:
    found: bool = await onlooker.fetchval(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = $1)", waiting.get_server_pid()
    )
    return found
