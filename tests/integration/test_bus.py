"""Publishing in the bus's own transaction: what concurrent publishes share, and what each of them is told."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from uuid import UUID

import asyncpg
import pytest

import pgbus
from pgbus.publishing.publisher import Publisher
from tests.conftest import Connect
from tests.support import eventually
from tests.support.programs import program_environ
from tests.support.waiting import PATIENCE


async def test_concurrent_publishes_share_inserts(database: str, connect: Connect) -> None:
    observer = await connect(database)

    async with pgbus.create(database) as bus:
        await bus.publish(0, topic="numbers.first")
        events = await asyncio.gather(*(bus.publish(number, topic="numbers.next") for number in range(200)))

    transactions = await observer.fetchval(
        "SELECT count(DISTINCT CAST(xmin AS text)) FROM pgbus.outbox WHERE topic = 'numbers.next'"
    )
    stored = await observer.fetch("SELECT event_id FROM pgbus.outbox WHERE topic = 'numbers.next'")
    assert {event.event_id for event in events} == {row["event_id"] for row in stored}
    assert len(stored) == 200
    assert transactions <= 3


async def test_an_event_that_the_database_refuses_fails_alone(database: str, connect: Connect) -> None:
    owner = await connect(database)
    await owner.execute("ALTER TABLE pgbus.outbox ADD CONSTRAINT no_thirteen CHECK (payload <> '13')")

    async with pgbus.create(database) as bus:
        results = await asyncio.gather(
            *(bus.publish(number, topic="numbers.next") for number in range(20)), return_exceptions=True
        )

    assert isinstance(results[13], asyncpg.CheckViolationError)
    assert sum(isinstance(result, pgbus.EventMessage) for result in results) == 19
    assert await owner.fetchval("SELECT count(*) FROM pgbus.outbox") == 19


async def test_a_cancelled_publish_takes_no_other_with_it(database: str, connect: Connect) -> None:
    observer = await connect(database)

    async with pgbus.create(database) as bus:
        given_up = asyncio.create_task(bus.publish("never", topic="numbers.never"))
        kept = asyncio.create_task(bus.publish("kept", topic="numbers.kept"))
        await asyncio.sleep(0)
        given_up.cancel()
        event = await kept

    assert given_up.cancelled()
    assert await observer.fetchval("SELECT event_id FROM pgbus.outbox WHERE topic = 'numbers.kept'") == event.event_id


async def test_a_publish_that_is_cancelled_while_it_is_tried_alone_leaves_no_other_waiting(
    database: str, connect: Connect
) -> None:
    owner = await connect(database)
    await owner.execute("""
        CREATE FUNCTION slow_down() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.payload = '"refused"' THEN RAISE check_violation; END IF;
            IF NEW.payload = '"slow"' THEN PERFORM pg_advisory_xact_lock(1); END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER slow_down BEFORE INSERT ON pgbus.outbox FOR EACH ROW EXECUTE FUNCTION slow_down();
        SELECT pg_advisory_lock(1)
    """)

    async with pgbus.create(database) as bus:
        publishes = [
            asyncio.create_task(bus.publish(one, topic="numbers.next")) for one in ("refused", "slow", "third")
        ]
        await eventually(
            lambda: owner.fetchval("SELECT true FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        )
        publishes[1].cancel()
        await asyncio.wait([publishes[1]])
        await owner.execute("SELECT pg_advisory_unlock(1)")
        async with asyncio.timeout(PATIENCE):
            refused, cancelled, third = await asyncio.gather(*publishes, return_exceptions=True)

    assert isinstance(refused, asyncpg.CheckViolationError)
    assert isinstance(cancelled, asyncio.CancelledError)
    assert isinstance(third, pgbus.EventMessage)


async def test_a_first_publish_that_is_cancelled_while_it_connects_leaves_no_session(
    database: str, connect: Connect
) -> None:
    has_pool = asyncio.Event()

    async def announce(_: object) -> None:
        has_pool.set()
        await asyncio.Event().wait()

    publisher = Publisher(pgbus.Config(dsn=database), on_open=announce)
    connecting = asyncio.create_task(publisher.connect())
    await has_pool.wait()
    connecting.cancel()
    await asyncio.wait([connecting])
    observer = await connect(database)

    async def is_alone() -> bool:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        return bool(await observer.fetchval(query) == 1)

    await eventually(is_alone, PATIENCE, message="a session was left open")


async def test_many_are_published_in_one_transaction_or_not_at_all(database: str, connect: Connect) -> None:
    owner = await connect(database)
    await owner.execute("ALTER TABLE pgbus.outbox ADD CONSTRAINT small CHECK ((payload #>> '{}')::int < 4999)")

    async with pgbus.create(database) as bus:
        with pytest.raises(asyncpg.CheckViolationError):
            await bus.publish_many(range(5000), topic="numbers.next")
        ids = await bus.publish_many(range(4999), topic="numbers.next")

    stored = await owner.fetch("SELECT event_id FROM pgbus.outbox ORDER BY id")
    assert [row["event_id"] for row in stored] == ids


async def test_blocking_calls_work_in_plain_threads(database: str, connect: Connect) -> None:
    observer = await connect(database)
    bus = pgbus.create(database)
    published: list[UUID] = []

    def work() -> None:
        published.append(bus.publish_sync("one", topic="threads.one").event_id)
        published.extend(bus.publish_many_sync(["two", "three"], topic="threads.more"))
        later = bus.publish_sync("four", topic="threads.later", delay=3600)
        assert bus.cancel_sync(later.event_id)
        assert not bus.cancel_sync(later.event_id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    await bus.close()

    stored = await observer.fetch("SELECT event_id FROM pgbus.outbox")
    assert len(published) == 12
    assert sorted(row["event_id"] for row in stored) == sorted(published)


async def test_a_blocking_call_on_the_loop_is_refused(database: str) -> None:
    async with pgbus.create(database) as bus:
        with pytest.raises(pgbus.CannotBlockHere, match="await publish"):
            bus.publish_sync("one", topic="threads.one")


async def test_a_database_without_the_schema_is_named_as_such(empty_database: str) -> None:
    async with pgbus.create(empty_database) as bus:
        with pytest.raises(pgbus.SchemaVersionError, match="pgbus db upgrade"):
            await bus.publish("one", topic="numbers.one")


async def test_a_database_that_is_not_there_is_named_without_its_password() -> None:
    async with pgbus.create("postgresql://user:secret@127.0.0.1:1/none") as bus:
        with pytest.raises(pgbus.DatabaseUnreachableError) as raised:
            await bus.publish("one", topic="numbers.one")

    assert "secret" not in str(raised.value)


async def test_a_bus_goes_on_after_its_connections_were_killed(database: str, connect: Connect) -> None:
    killer = await connect(database)

    async with pgbus.create(database) as bus:
        await bus.publish("one", topic="numbers.one")
        await killer.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        event = await _publish_again(bus)

    assert await killer.fetchval("SELECT event_id FROM pgbus.outbox WHERE topic = 'numbers.two'") == event.event_id


async def _publish_again(bus: pgbus.Bus) -> pgbus.EventMessage:
    """A publish may be told that its connection is gone; the next one has another."""
    try:
        return await bus.publish("two", topic="numbers.two", dedup_key="two")
    except pgbus.DatabaseUnreachableError:
        return await bus.publish("two", topic="numbers.two", dedup_key="two")


async def test_two_loops_use_one_bus(database: str, connect: Connect) -> None:
    observer = await connect(database)
    bus = pgbus.create(database)

    async def publish_and_close() -> None:
        await bus.publish("other", topic="loops.other")
        await bus.close()

    await bus.publish("this", topic="loops.this")
    await asyncio.to_thread(asyncio.run, publish_and_close())
    await bus.publish("this", topic="loops.this")
    await bus.close()

    assert await observer.fetchval("SELECT count(*) FROM pgbus.outbox") == 3


FORKING = """
import os
import sys

import pgbus

bus = pgbus.create(sys.argv[1])


@bus.client.before_event_sent()
def plain(event_message):
    event_message.payload["plain"] = True


@bus.client.before_event_sent()
async def on_the_loop_of_the_bus(event_message):
    event_message.payload["async"] = True
    if event_message.topic == "process.started":
        await bus.publish({}, topic="hook.called")  # whose plain hook needs a thread


bus.publish_sync({}, topic="process.started")
child = os.fork()
bus.publish_sync({"child": child == 0}, topic="process.started")
bus.close_sync()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
async def test_a_forked_child_publishes_from_code_that_blocks_on_threads_of_its_own(
    database: str, connect: Connect
) -> None:
    """As behind gunicorn --preload, or in a pool of Celery's."""
    program = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING, database],
        env=program_environ(), capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert (program.returncode, program.stderr) == (0, "")
    observer = await connect(database)
    query = "SELECT topic, payload ->> 'child' AS child, payload @> '{\"plain\": true, \"async\": true}' AS hooked"
    rows = [tuple(row) for row in await observer.fetch(f"{query} FROM pgbus.outbox")]
    started = [(child, hooked) for topic, child, hooked in rows if topic == "process.started"]
    assert sorted(started, key=str) == sorted([(None, True), ("false", True), ("true", True)], key=str)
    assert len(rows) == 6
