"""Publishing in the user's transaction: one contract, kept by every connection and session that it accepts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import psycopg
import pytest
import sqlalchemy

from pgbus.errors import ConnectionUnusableError, InvalidEventError, TransactionAbortedError
from pgbus.publishing import outbox
from pgbus.publishing.rows import OutboxRow
from tests.contracts import faces
from tests.contracts.faces import FACES, LIMITS, Face
from tests.contracts.rows import PersonChanged, PersonMoved, outbox_rows, payloads
from tests.support import eventually

Open = Callable[[str], AbstractAsyncContextManager[Face]]


class Undo(Exception):
    """Raised by a test inside a transaction or savepoint, to have it rolled back."""


@pytest.fixture(params=FACES)
def open_face(request: pytest.FixtureRequest) -> Open:
    return FACES[request.param]


@pytest.fixture
async def face(open_face: Open, database: str) -> AsyncIterator[Face]:
    async with open_face(database) as opened:
        yield opened


# ------------------------------------------------------------------------------------------------------------ atomicity


async def test_an_event_appears_when_its_transaction_commits(face: Face, observer: asyncpg.Connection) -> None:
    async with face.transaction():
        (event_id,) = await face.publish(PersonMoved("Ada", "London"))
        assert await outbox_rows(observer) == []
    (row,) = await outbox_rows(observer)
    assert (row["event_id"], row["topic"], row["ancestors"]) == (event_id, "people.moved", ["people.changed"])
    assert json.loads(row["payload"]) == {"name": "Ada", "city": "London"}
    assert (row["key"], row["headers"], row["deliver_at"]) == (None, None, None)


async def test_an_event_does_not_exist_when_its_transaction_rolls_back(
    face: Face, observer: asyncpg.Connection
) -> None:
    with suppress(Undo):
        async with face.transaction():
            await face.publish(PersonChanged("Ada"))
            raise Undo
    assert await outbox_rows(observer) == []


async def test_it_commits_with_what_the_user_wrote(face: Face, observer: asyncpg.Connection) -> None:
    await observer.execute("CREATE TABLE people (name text)")
    async with face.transaction():
        await face.publish(PersonChanged("before"))
        await face.execute("INSERT INTO people VALUES ('Ada')")
        await face.publish(PersonChanged("after"))
    assert await observer.fetchval("SELECT name FROM people") == "Ada"
    assert await payloads(observer) == [{"name": "before"}, {"name": "after"}]


async def test_it_goes_with_a_savepoint_that_is_rolled_back(face: Face, observer: asyncpg.Connection) -> None:
    async with face.transaction():
        await face.publish(PersonChanged("kept"))
        with suppress(Undo):
            async with face.savepoint():
                await face.publish(PersonChanged("gone"))
                raise Undo
        await face.publish(PersonChanged("later"))
    assert await payloads(observer) == [{"name": "kept"}, {"name": "later"}]


async def test_it_stays_with_a_savepoint_that_is_released(face: Face, observer: asyncpg.Connection) -> None:
    async with face.transaction(), face.savepoint():
        await face.publish(PersonChanged("outer"))
        async with face.savepoint():
            await face.publish(PersonChanged("inner"))
    assert await payloads(observer) == [{"name": "outer"}, {"name": "inner"}]


async def test_a_savepoint_that_is_released_goes_with_the_transaction(face: Face, observer: asyncpg.Connection) -> None:
    with suppress(Undo):
        async with face.transaction():
            async with face.savepoint():
                await face.publish(PersonChanged("Ada"))
            raise Undo
    assert await outbox_rows(observer) == []


async def test_a_transaction_that_failed_says_so_and_publishes_nothing(
    face: Face, observer: asyncpg.Connection
) -> None:
    with pytest.raises(TransactionAbortedError, match="roll it back"):  # noqa: PT012 - the transaction is the context
        async with face.transaction():
            await face.publish(PersonChanged("before"))
            with suppress(asyncpg.PostgresError, psycopg.Error, sqlalchemy.exc.DBAPIError):
                await face.execute("SELECT 1 / 0")
            await face.publish(PersonChanged("after"))
    assert await outbox_rows(observer) == []


async def test_a_savepoint_saves_the_transaction_from_an_error(face: Face, observer: asyncpg.Connection) -> None:
    async with face.transaction():
        with suppress(asyncpg.PostgresError, psycopg.Error, sqlalchemy.exc.DBAPIError):
            async with face.savepoint():
                await face.publish(PersonChanged("gone"))
                await face.execute("SELECT 1 / 0")
        await face.publish(PersonChanged("Ada"))
    assert await payloads(observer) == [{"name": "Ada"}]


async def test_a_closed_connection_says_so(face: Face) -> None:
    await face.close()
    with pytest.raises(ConnectionUnusableError, match="closed"):
        await face.publish(PersonChanged("Ada"))


async def test_a_connection_that_the_server_closed_says_so(face: Face, observer: asyncpg.Connection) -> None:
    errors: list[Exception] = []
    with suppress(Exception):  # the transaction cannot end well
        async with face.transaction():
            await face.execute("SELECT 1")
            await observer.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
            try:
                await face.publish(PersonChanged("Ada"), PersonChanged("Eve"), dedup_key="people")
            except Exception as error:
                errors.append(error)
            raise Undo
    assert [type(error) for error in errors] == [ConnectionUnusableError]
    assert await outbox_rows(observer) == []


async def test_an_invalid_event_is_refused_and_the_transaction_goes_on(
    face: Face, observer: asyncpg.Connection
) -> None:
    async with face.transaction():
        await face.publish(PersonChanged("before"))
        for refused in (
            {"event": PersonChanged("A\x00da")},
            {"event": PersonChanged("\ud800")},
            {"event": object(), "topic": "people.changed"},
            {"event": {}, "topic": "people changed"},
            {"event": PersonChanged("Ada"), "key": ""},
            {"event": PersonChanged("Ada"), "headers": {"trace": "\x00"}},
        ):
            with pytest.raises(InvalidEventError):
                await face.publish(refused.pop("event"), **refused)
        await face.publish(PersonChanged("after"))
    assert await payloads(observer) == [{"name": "before"}, {"name": "after"}]


async def test_other_errors_come_as_they_are(face: Face, observer: asyncpg.Connection) -> None:
    await observer.execute("ALTER TABLE pgbus.outbox ADD CONSTRAINT nobody CHECK (topic <> 'people.changed')")
    with pytest.raises((asyncpg.CheckViolationError, psycopg.errors.CheckViolation, sqlalchemy.exc.IntegrityError)):
        async with face.transaction():
            await face.publish(PersonChanged("Ada"))


# ---------------------------------------------------------------------------------------------------- what an event has


async def test_key_headers_and_event_id_arrive(face: Face, observer: asyncpg.Connection) -> None:
    wanted = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
    async with face.transaction():
        (event_id,) = await face.publish(
            PersonChanged("Ada"), topic="people.new", key="ada é", headers={"trace": "1"}, event_id=str(wanted)
        )
    (row,) = await outbox_rows(observer)
    assert event_id == row["event_id"] == wanted
    assert (row["topic"], row["key"]) == ("people.new", "ada é")
    assert json.loads(row["headers"]) == {"trace": "1"}


@pytest.mark.parametrize(
    "text", ["Zoë", "日本語", "\N{FACE WITH TEARS OF JOY}", '"\\/\b\f\n\r\t', "\\u0000", "100 % of :name", "{1,NULL}"]
)
async def test_any_text_arrives_as_it_was(database: str, observer: asyncpg.Connection, text: str) -> None:
    for opened in FACES.values():
        async with opened(database) as face, face.transaction():
            await face.publish(PersonChanged(text), key=text, headers={text: text})
            await face.publish(PersonChanged(text), PersonChanged(text), key=text, headers={text: text})
    rows = await outbox_rows(observer)
    assert len(rows) == 3 * len(FACES)
    assert {(json.loads(row["payload"])["name"], row["key"], row["headers"]) for row in rows} == {
        (text, text, rows[0]["headers"])
    }
    assert json.loads(rows[0]["headers"]) == {text: text}


async def test_any_json_is_a_payload(face: Face, observer: asyncpg.Connection) -> None:
    values = [None, True, 0, -1.5, 10**40, "text", [], [1, [2]], {}, {"a": {"b": None}}]
    async with face.transaction():
        for value in values:
            await face.publish(value, topic="any.json")
        await face.publish(*values, topic="any.json")
    assert await payloads(observer) == values + values


async def test_thousands_of_events_keep_their_order(face: Face, observer: asyncpg.Connection) -> None:
    async with face.transaction():
        ids = await face.publish(*(PersonChanged(str(number)) for number in range(5000)), key="k")
    rows = await outbox_rows(observer)
    assert [row["event_id"] for row in rows] == ids
    assert [json.loads(row["payload"])["name"] for row in rows] == [str(number) for number in range(5000)]
    assert {row["key"] for row in rows} == {"k"}


async def test_events_in_bulk_keep_their_order_and_ancestors(face: Face, observer: asyncpg.Connection) -> None:
    events = [PersonMoved(f"100 % sure: {number}\n\t'\\", "Zürich") for number in range(5000)]
    async with face.transaction():
        ids = await face.insert_parts(outbox.prepare_many(events, limits=LIMITS))
    rows = await outbox_rows(observer)
    assert [row["event_id"] for row in rows] == ids
    assert [json.loads(row["payload"]) for row in rows] == [{"name": one.name, "city": one.city} for one in events]
    assert {tuple(row["ancestors"]) for row in rows} == {("people.changed",)}


async def test_rows_of_every_shape_go_in_one_statement(face: Face, observer: asyncpg.Connection) -> None:
    rows = [
        outbox.prepare(PersonChanged("plain"), limits=LIMITS),
        outbox.prepare(PersonMoved("keyed", "London"), key="k", headers={"a": "b"}, limits=LIMITS),
        outbox.prepare(PersonChanged("delayed"), delay=60, limits=LIMITS),
        outbox.prepare(PersonChanged("once"), dedup_key="d", limits=LIMITS),
    ]
    async with face.transaction():
        for some in ([*rows[:3]], rows):
            await face.insert([*map(_with_new_id, some)])
    stored = await outbox_rows(observer)
    assert [json.loads(row["payload"])["name"] for row in stored] == [
        *("plain", "keyed", "delayed"),
        *("plain", "keyed", "delayed", "once"),
    ]
    for row in stored:
        keyed = json.loads(row["payload"])["name"] == "keyed"
        assert row["key"] == ("k" if keyed else None)
        assert row["ancestors"] == (["people.changed"] if keyed else None)
        assert row["headers"] == ('{"a": "b"}' if keyed else None)
        assert (row["deliver_at"] is not None) == (json.loads(row["payload"])["name"] == "delayed")


def _with_new_id(row: OutboxRow) -> OutboxRow:
    values = {name: getattr(row, name) for name in row.__struct_fields__}
    return OutboxRow(**{**values, "event_id": UUID(int=row.event_id.int ^ 1)})


# ----------------------------------------------------------------------------------------------------------- scheduling


async def test_deliver_at_is_kept(face: Face, observer: asyncpg.Connection) -> None:
    instant = datetime(2100, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    async with face.transaction():
        await face.publish(PersonChanged("Ada"), deliver_at=instant)
    (row,) = await outbox_rows(observer)
    assert row["deliver_at"] == instant


async def test_delay_counts_from_the_insert_by_the_database_clock(face: Face, observer: asyncpg.Connection) -> None:
    async with face.transaction():
        await face.execute("SELECT 1")
        before = await observer.fetchval("SELECT clock_timestamp()")
        await face.publish(PersonChanged("Ada"), delay=90.5)
        await face.publish(PersonChanged("Eve"), PersonChanged("Bob"), delay=90.5, dedup_key=None)
    after = await observer.fetchval("SELECT clock_timestamp()")
    rows = await outbox_rows(observer)
    assert len(rows) == 3
    for row in rows:
        assert before <= row["deliver_at"] - timedelta(seconds=90.5) <= after


async def test_a_scheduled_event_can_be_cancelled_until_it_is_due(face: Face, observer: asyncpg.Connection) -> None:
    past, future = datetime.now(UTC) - timedelta(seconds=1), datetime.now(UTC) + timedelta(hours=1)
    async with face.transaction():
        (due,) = await face.publish(PersonChanged("due"), deliver_at=past)
        (later,) = await face.publish(PersonChanged("later"), deliver_at=future)
        (at_once,) = await face.publish(PersonChanged("at once"))
    async with face.transaction():
        assert [await face.cancel(event_id) for event_id in (due, later, later, at_once)] == [False, True, False, False]
    assert await payloads(observer) == [{"name": "due"}, {"name": "at once"}]


async def test_a_cancellation_that_is_rolled_back_did_not_happen(face: Face, observer: asyncpg.Connection) -> None:
    async with face.transaction():
        (event_id,) = await face.publish(PersonChanged("Ada"), delay=3600)
    with suppress(Undo):
        async with face.transaction():
            assert await face.cancel(event_id)
            raise Undo
    assert await payloads(observer) == [{"name": "Ada"}]


# ----------------------------------------------------------------------------------------------------------- dedup keys


async def test_a_dedup_key_lets_one_event_in_and_tells_its_id(face: Face, observer: asyncpg.Connection) -> None:
    async with face.transaction():
        (first,) = await face.publish(PersonChanged("first"), dedup_key="ada")
        (same_transaction,) = await face.publish(PersonChanged("second"), dedup_key="ada")
    async with face.transaction():
        (later,) = await face.publish(PersonChanged("third"), dedup_key="ada")
        (other,) = await face.publish(PersonChanged("other"), dedup_key="eve")
    assert first == same_transaction == later != other
    assert await payloads(observer) == [{"name": "first"}, {"name": "other"}]


async def test_a_dedup_key_goes_with_the_transaction_that_took_it(face: Face, observer: asyncpg.Connection) -> None:
    with suppress(Undo):
        async with face.transaction():
            await face.publish(PersonChanged("gone"), dedup_key="ada")
            raise Undo
    async with face.transaction():
        (event_id,) = await face.publish(PersonChanged("Ada"), dedup_key="ada")
    (row,) = await outbox_rows(observer)
    assert row["event_id"] == event_id


async def test_one_call_may_repeat_a_dedup_key(face: Face, observer: asyncpg.Connection) -> None:
    async with face.transaction():
        ids = await face.insert(_keyed(("1", "a"), ("2", None), ("3", "b"), ("4", "a"), ("5", None), ("6", "b")))
    assert await payloads(observer) == [{"name": name} for name in "1235"]
    assert ids[0] == ids[3]
    assert ids[2] == ids[5]
    assert len(set(ids)) == 4
    assert [row["event_id"] for row in await outbox_rows(observer)] == [ids[0], ids[1], ids[2], ids[4]]


def _keyed(*pairs: tuple[str, str | None]) -> list[OutboxRow]:
    return [outbox.prepare(PersonChanged(name), dedup_key=key, limits=LIMITS) for name, key in pairs]


async def test_trying_again_under_the_same_event_id_publishes_once(face: Face, observer: asyncpg.Connection) -> None:
    wanted = "01890a5d-ac96-774b-bcce-b302099a8057"
    async with face.transaction():
        await face.publish(PersonChanged("Ada"), event_id=wanted, dedup_key="ada")
        await face.publish(PersonChanged("Ada"), event_id=wanted, dedup_key="ada")
    async with face.transaction():
        (event_id,) = await face.publish(PersonChanged("Ada"), event_id=wanted, dedup_key="ada")
    (row,) = await outbox_rows(observer)
    assert row["event_id"] == event_id == UUID(wanted)


async def test_an_expired_dedup_key_is_taken_over(face: Face, observer: asyncpg.Connection) -> None:
    wanted = "01890a5d-ac96-774b-bcce-b302099a8057"
    async with face.transaction():
        await face.publish(PersonChanged("first"), event_id=wanted, dedup_key="ada", dedup_ttl=-1.0)
    async with face.transaction():
        await face.publish(PersonChanged("second"), event_id=wanted, dedup_key="ada")
        (third,) = await face.publish(PersonChanged("third"), dedup_key="ada")
    assert await payloads(observer) == [{"name": "first"}, {"name": "second"}]
    assert third == UUID(wanted)
    assert await observer.fetchval("SELECT expires_at > now() FROM pgbus.dedup_keys")


async def test_a_cancelled_event_frees_its_dedup_key(face: Face, observer: asyncpg.Connection) -> None:
    async with face.transaction():
        (first,) = await face.publish(PersonChanged("first"), delay=3600, dedup_key="ada")
        (other,) = await face.publish(PersonChanged("other"), delay=3600, dedup_key="eve")
        assert await face.cancel(first)
        (second,) = await face.publish(PersonChanged("second"), delay=3600, dedup_key="ada")
        (again,) = await face.publish(PersonChanged("again"), delay=3600, dedup_key="eve")
    assert first != second
    assert other == again
    assert await payloads(observer) == [{"name": "other"}, {"name": "second"}]


async def _waiters(observer: asyncpg.Connection) -> int:
    count: int = await observer.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return count


@pytest.mark.parametrize("first_commits", [True, False], ids=["commits", "rolls back"])
async def test_a_second_transaction_waits_for_the_one_that_took_the_dedup_key(
    open_face: Open, database: str, observer: asyncpg.Connection, first_commits: bool
) -> None:
    async def publish_second() -> UUID:
        async with second.transaction():
            (event_id,) = await second.publish(PersonChanged("second"), dedup_key="ada")
        return event_id

    async with open_face(database) as first, open_face(database) as second, asyncio.TaskGroup() as tasks:
        with suppress(Undo):
            async with first.transaction():
                (first_id,) = await first.publish(PersonChanged("first"), dedup_key="ada")
                waiting = tasks.create_task(publish_second())
                await eventually(lambda: _waiters(observer))
                if not first_commits:
                    raise Undo
        second_id = await waiting
    (row,) = await outbox_rows(observer)
    assert row["event_id"] == second_id
    assert (second_id == first_id) is first_commits


async def test_calls_that_share_dedup_keys_in_another_order_do_not_deadlock(
    database: str, observer: asyncpg.Connection
) -> None:
    async def publish(keys: Sequence[str]) -> None:
        async with faces.asyncpg_connection(database) as face:
            for number in range(20):
                async with face.transaction():
                    await face.insert(_keyed(*((key, f"{key}{number}") for key in keys)))

    names = "abcdefghij"
    async with asyncio.TaskGroup() as tasks:
        for keys in (names, names[::-1], names[5:] + names[:5]):
            tasks.create_task(publish(keys))
    assert len(await outbox_rows(observer)) == 20 * len(names)


# -------------------------------------------------------------------------------------------------------- without pgbus


async def test_plain_sql_publishes(observer: asyncpg.Connection) -> None:
    await observer.execute("""INSERT INTO pgbus.outbox (topic, payload) VALUES ('people.changed', '{"name": "Ada"}')""")
    (row,) = await outbox_rows(observer)
    assert json.loads(row["payload"]) == {"name": "Ada"}
    assert row["event_id"].version == 7
    assert row["published_at"] is not None


async def test_a_trigger_publishes(observer: asyncpg.Connection) -> None:
    await observer.execute("""
        CREATE TABLE people (name text);
        CREATE FUNCTION announce() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO pgbus.outbox (topic, key, payload) VALUES ('people.changed', NEW.name, to_jsonb(NEW));
            RETURN NULL;
        END
        $$;
        CREATE TRIGGER announce AFTER INSERT ON people FOR EACH ROW EXECUTE FUNCTION announce();
        INSERT INTO people VALUES ('Ada'), ('Eve');
    """)
    assert await payloads(observer) == [{"name": "Ada"}, {"name": "Eve"}]
    assert [row["key"] for row in await outbox_rows(observer)] == ["Ada", "Eve"]


async def test_copy_publishes(observer: asyncpg.Connection) -> None:
    await observer.copy_records_to_table(
        "outbox",
        schema_name="pgbus",
        columns=["topic", "payload"],
        records=[("people.changed", json.dumps({"name": str(number)})) for number in range(100)],
    )
    assert await payloads(observer) == [{"name": str(number)} for number in range(100)]
