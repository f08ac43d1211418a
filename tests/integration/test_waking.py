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
