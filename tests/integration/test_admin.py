from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

from pgbus.admin import Admin, Condition, DeadFilter, EventFilter, EventRecord
from pgbus.config import Config
from pgbus.database import sql
from pgbus.database.statements import deliveries
from pgbus.database.statements.inspection import parameters
from pgbus.database.store import Store
from pgbus.errors import (
    DatabaseUnreachableError,
    InUseError,
    InvalidEventError,
    NotRegisteredError,
    SchemaVersionError,
)
from pgbus.listeners.settlement import settlement
from tests.conftest import Connect
from tests.support import eventually
from tests.support.rows import Rows

HOUR = timedelta(hours=1)
NOON = datetime(2025, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
async def admin(database: str) -> AsyncIterator[Admin]:
    async with Admin.connect(Config(dsn=database)) as connected:
        yield connected


@pytest.fixture
async def reloads(database: str, connect: Connect) -> asyncio.Queue[object]:
    """What workers are told on their channel."""
    heard: asyncio.Queue[object] = asyncio.Queue()
    connection = await connect(database)
    await connection.add_listener("pgbus_work", lambda *call: heard.put_nowait(call[-1]))
    return heard


def positions(records: list[EventRecord]) -> list[int | None]:
    return [record.event.position for record in records]


async def told_to_reload(reloads: asyncio.Queue[object]) -> bool:
    return await asyncio.wait_for(reloads.get(), 10) == "reload"


# ---------------------------------------------------------------------------------------------------------- connecting


async def test_connecting_to_a_database_that_is_not_there_says_so_without_the_password() -> None:
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


async def test_a_worker_is_live_while_its_lock_is_held_and_leads_while_it_holds_the_leaders(
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


# -------------------------------------------------------------------------------------------------------------- events


async def test_events_come_newest_first_or_oldest_first(admin: Admin, rows: Rows) -> None:
    for position in range(1, 6):
        await rows.event(position)
    assert positions(await admin.find_events(limit=3)) == [5, 4, 3]
    assert positions(await admin.find_events(limit=3, newest_first=False)) == [1, 2, 3]


async def test_an_event_is_found_as_it_was_stored(admin: Admin, rows: Rows) -> None:
    event_id = await rows.event(
        1, "orders.placed", {"price": 1.10}, key="adam", ancestors=["base"], headers={"trace": "7"}, logged_at=NOON
    )
    [record] = await admin.find_events()
    assert (record.event.event_id, record.event.topic, record.event.key) == (event_id, "orders.placed", "adam")
    assert (record.event.payload, record.event.headers, record.event.ancestors) == (
        {"price": 1.1},
        {"trace": "7"},
        ["base"],
    )
    assert record.logged_at == NOON
    assert (record.attempts, record.owed) == ((), ())


async def test_events_are_filtered_by_topic_as_a_subscription_would(admin: Admin, rows: Rows) -> None:
    await rows.event(1, "orders.placed")
    await rows.event(2, "orders.eu.placed", ancestors=["base.thing"])
    await rows.event(3, "orders")
    await rows.event(4, "orders-x.placed")
    found = {
        topic: positions(await admin.find_events(EventFilter(topic=topic), newest_first=False))
        for topic in ("orders.placed", "orders.*", "orders.**", "base.*", "**")
    }
    assert found == {
        "orders.placed": [1],
        "orders.*": [1],
        "orders.**": [1, 2, 3],
        "base.*": [2],
        "**": [1, 2, 3, 4],
    }


async def test_filters_restrict_together(admin: Admin, rows: Rows) -> None:
    for position in range(1, 9):
        await rows.event(position, key="even" if position % 2 == 0 else "odd", logged_at=NOON + position * HOUR)
    event_id = (await admin.find_events(EventFilter(after=4, before=6)))[0].event.event_id
    found = [
        positions(await admin.find_events(wanted, newest_first=False))
        for wanted in (
            EventFilter(key="even"),
            EventFilter(event_id=event_id),
            EventFilter(event_id=event_id, key="even"),
            EventFilter(since=NOON + 3 * HOUR, until=NOON + 5 * HOUR),
            EventFilter(key="odd", after=1, before=7),
        )
    ]
    assert found == [[2, 4, 6, 8], [5], [], [3, 4], [3, 5]]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("name=adam", [1]),
        ("name!=adam", [2, 3]),
        ("age>=18", [1]),
        ("age<18", [2]),
        ("age!=18", [2, 3]),
        ("address.city=Köln", [2]),
        ("items[*].sku=b", [1, 3]),
        ("items[0].sku=b", [3]),
        ("active=true", [1]),
        ("gone=null", [2]),
        ('"odd key.with \\"quotes\\""=1', [3]),
        ("name=x') || true || ('", []),
        ("nowhere!=1", []),
    ],
)
async def test_a_condition_compares_a_value_inside_the_payload(
    admin: Admin, rows: Rows, condition: str, expected: list[int]
) -> None:
    await rows.event(1, payload={"name": "adam", "age": 18, "items": [{"sku": "a"}, {"sku": "b"}], "active": True})
    await rows.event(2, payload={"name": "eve", "age": 17, "address": {"city": "Köln"}, "gone": None})
    await rows.event(3, payload={"name": 5, "age": "18", "items": [{"sku": "b"}], 'odd key.with "quotes"': 1})
    await rows.event(4, payload=[1, 2])
    wanted = EventFilter(where=(Condition.parse(condition),))
    assert positions(await admin.find_events(wanted, newest_first=False)) == expected


async def test_all_conditions_must_hold(admin: Admin, rows: Rows) -> None:
    await rows.event(1, payload={"a": 1, "b": 1})
    await rows.event(2, payload={"a": 1, "b": 2})
    wanted = EventFilter(where=(Condition.parse("a=1"), Condition.parse("b=2")))
    assert positions(await admin.find_events(wanted)) == [2]


async def test_an_event_shows_every_attempt_and_whom_it_is_still_owed_to(admin: Admin, rows: Rows) -> None:
    await rows.event(1)
    mailer, stock = await rows.listener("mailer"), await rows.listener("stock")
    await rows.attempt(mailer, 1, "retry", error="ValueError: no")
    await rows.attempt(mailer, 1, "done", attempt=2)
    worker_id = await rows.worker("worker-1")
    await rows.delivery(stock, 1, attempt=3, worker_id=worker_id, last_error="KeyError")
    [record] = await admin.find_events()
    assert [(one.listener_name, one.attempt, one.outcome, one.error) for one in record.attempts] == [
        ("mailer", 1, "retry", "ValueError: no"),
        ("mailer", 2, "done", None),
    ]
    assert record.attempts[0].duration == 0.25
    assert record.attempts[0].started_at <= record.attempts[1].started_at
    [owed] = record.owed
    assert (owed.listener_name, owed.state, owed.attempt, owed.worker, owed.last_error) == (
        "stock",
        "in flight",
        3,
        "worker-1",
        "KeyError",
    )


async def test_events_owed_to_a_listener_are_those_of_its_runs_holes_left_out(admin: Admin, rows: Rows) -> None:
    for position in range(1, 10):
        await rows.event(position)
    mailer = await rows.listener("mailer")
    await rows.delivery(mailer, 2, 3)
    await rows.delivery(mailer, 5, 8, positions=[5, 8])
    found = await admin.find_events(EventFilter(owed_to="mailer"), newest_first=False)
    assert positions(found) == [2, 3, 5, 8]


async def test_a_listener_that_is_behind_is_owed_what_matches_its_subscriptions(admin: Admin, rows: Rows) -> None:
    await rows.event(1, "orders.placed")
    await rows.event(2, "orders.placed")
    await rows.event(3, "auth.user_created")
    await rows.event(4, "orders.eu.placed", ancestors=["base.thing"])
    await rows.event(5, "ordersXplaced")
    await rows.listener("replay", "orders.placed", "base.*", cursor=2)
    found = await admin.find_events(EventFilter(owed_to="replay"), newest_first=False)
    assert positions(found) == [2, 4]
    assert [owed.state for record in found for owed in record.owed] == ["behind", "behind"]


async def test_nothing_is_owed_to_a_listener_that_is_done(admin: Admin, rows: Rows) -> None:
    await rows.event(1)
    await rows.listener("mailer")
    assert await admin.find_events(EventFilter(owed_to="mailer")) == []


async def test_the_history_of_a_removed_listener_stays(admin: Admin, rows: Rows) -> None:
    await rows.event(1)
    await rows.attempt(await rows.listener("mailer"), 1)
    await admin.listeners.remove("mailer")
    [record] = await admin.find_events()
    assert [(one.listener_name, one.outcome) for one in record.attempts] == [("(removed)", "done")]


async def test_filters_are_checked_when_they_are_made() -> None:
    with pytest.raises(InvalidEventError, match="is not a pattern"):
        EventFilter(topic="orders..")
    with pytest.raises(ValueError, match="has no time zone"):
        EventFilter(since=datetime(2025, 1, 1))  # noqa: DTZ001 - the point of the test
    with pytest.raises(InvalidEventError, match="is not a pattern"):
        DeadFilter(topic="a b")


async def test_an_unknown_listener_is_named_with_its_close_matches(admin: Admin, rows: Rows) -> None:
    await rows.listener("send_mail")
    with pytest.raises(NotRegisteredError, match=r"no listener 'sendmail'; did you mean 'send_mail'\?") as caught:
        await admin.find_events(EventFilter(owed_to="sendmail"))
    assert caught.value.close == ("send_mail",)
    for verb in (admin.listeners.pause, admin.listeners.resume, admin.listeners.remove):
        with pytest.raises(NotRegisteredError):
            await verb("sendmail")
    with pytest.raises(NotRegisteredError):
        await admin.listeners.reset("sendmail", to="now")
    with pytest.raises(NotRegisteredError):
        await admin.dead_letters.find(DeadFilter(listener_name="sendmail"))


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (EventFilter(), "events_p0_pkey"),
        (EventFilter(after=500, before=700), "events_p0_pkey"),
        (EventFilter(key="key-7"), "events_p0_key_position_idx"),
        (EventFilter(event_id=uuid4()), "events_p0_event_id_idx"),
    ],
)
@pytest.mark.parametrize("newest_first", [True, False])
async def test_finding_events_reads_an_index(
    database: str, connect: Connect, wanted: EventFilter, index: str, newest_first: bool
) -> None:
    connection = await asyncpg.connect(database, statement_cache_size=0)
    try:
        await connection.execute(
            """
            INSERT INTO pgbus.events
            SELECT n, gen_random_uuid(), 'a', NULL, 'key-' || n % 1000, '{}', NULL, now(), NULL, now()
            FROM generate_series(1, 20000) AS n
            """
        )
        await connection.execute("ANALYZE pgbus.events")
        statement = sql.load()["find_events"]
        values = statement.arguments({**parameters(wanted.criteria()), "limit": 20, "newest_first": newest_first})
        plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {statement.asyncpg}", *values))
    finally:
        await connection.close()
    assert index in plan
    assert "Seq Scan on events" not in plan


# -------------------------------------------------------------------------------------------------------------- follow


async def test_follow_yields_what_enters_the_log_from_now_on(admin: Admin, rows: Rows) -> None:
    await rows.event(1)
    async with aclosing(admin.follow(poll_interval=0.02)) as following:
        first = asyncio.ensure_future(anext(following))
        while not first.done():  # until the follower has read the log's head, it may miss what comes
            await rows.event(2 + await rows.connection.fetchval("SELECT max(position) FROM pgbus.events"), "later")
            await asyncio.wait([first], timeout=0.05)
        assert (await first).event.topic == "later"


async def test_follow_begins_after_a_position_and_filters(admin: Admin, rows: Rows) -> None:
    for position in range(1, 251):
        await rows.event(position, "even" if position % 2 == 0 else "odd")
    async with aclosing(admin.follow(EventFilter(after=10, topic="even"))) as following:
        found = [(await anext(following)).event.position for _ in range(120)]
    assert found == list(range(12, 251, 2))


async def test_follow_is_woken_by_a_notification(admin: Admin, rows: Rows) -> None:
    await rows.event(1)
    async with aclosing(admin.follow(EventFilter(after=0), poll_interval=60)) as following:
        await anext(following)
        second = asyncio.ensure_future(anext(following))
        async with rows.connection.transaction():
            await rows.event(2)
            await rows.connection.execute("SELECT pg_notify('pgbus_work', '1')")
        assert (await asyncio.wait_for(second, 10)).event.position == 2


async def test_a_connection_that_is_lost_while_following_is_told_as_such(database: str, rows: Rows) -> None:
    await rows.event(1)

    async def follow() -> None:
        async with Admin.connect(Config(dsn=database)) as admin:
            async for _ in admin.follow(EventFilter(after=0), poll_interval=0.01):
                await rows.connection.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND pid <> pg_backend_pid()"
                )

    with pytest.raises(DatabaseUnreachableError, match="the connection was lost"):
        await follow()


# -------------------------------------------------------------------------------------------------------- dead letters


async def test_dead_letters_are_listed_newest_first_with_their_events(admin: Admin, rows: Rows) -> None:
    await rows.event(1, "orders.placed", key="adam")
    await rows.event(2, "auth.user_created", ancestors=["base"])
    mailer, stock = await rows.listener("mailer"), await rows.listener("stock")
    first = await rows.dead_letter(mailer, 1, dead_at=NOON)
    second = await rows.dead_letter(stock, 2, dead_at=NOON + HOUR)
    letters = await admin.dead_letters.find()
    assert [(one.id, one.listener_name, one.event.topic) for one in letters] == [
        (second, "stock", "auth.user_created"),
        (first, "mailer", "orders.placed"),
    ]
    assert (letters[1].event.key, letters[1].attempts, letters[1].error) == ("adam", 10, "ValueError: no")
    assert (letters[1].traceback, letters[1].worker, letters[1].dead_at) == ("Traceback: no", "worker-1", NOON)
    for wanted, expected in (
        (DeadFilter(listener_name="mailer"), [first]),
        (DeadFilter(topic="base"), [second]),
        (DeadFilter(since=NOON + HOUR), [second]),
        (DeadFilter(ids=(first, 999)), [first]),
        (DeadFilter(topic="orders.*", listener_name="stock"), []),
    ):
        assert [one.id for one in await admin.dead_letters.find(wanted)] == expected
    assert [one.id for one in await admin.dead_letters.find(limit=1)] == [second]


async def test_retrying_a_dead_letter_owes_its_event_again_in_its_lane(
    admin: Admin, rows: Rows, reloads: asyncio.Queue[object]
) -> None:
    await rows.event(7)
    mailer = await rows.listener("mailer", lanes=16)
    letter_id = await rows.dead_letter(mailer, 7, lane=3)
    assert await admin.dead_letters.retry(DeadFilter(ids=(letter_id, 999))) == [letter_id]
    [delivery] = await rows.connection.fetch(
        "SELECT listener_id, lane, first, last, events, attempt, available_at <= now() AS due FROM pgbus.deliveries"
    )
    assert tuple(delivery) == (mailer, 3, 7, 7, 1, 1, True)
    assert await admin.dead_letters.find() == []
    assert await told_to_reload(reloads)


async def test_discarding_a_dead_letter_leaves_a_line_in_the_history(
    admin: Admin, rows: Rows, reloads: asyncio.Queue[object]
) -> None:
    await rows.event(7)
    mailer = await rows.listener("mailer")
    letter_id = await rows.dead_letter(mailer, 7)
    assert await admin.dead_letters.discard(DeadFilter(ids=(letter_id,))) == [letter_id]
    [record] = await admin.find_events()
    assert [(one.listener_name, one.attempt, one.outcome, one.worker) for one in record.attempts] == [
        ("mailer", 10, "discarded", "operator")
    ]
    assert (record.owed, await admin.dead_letters.find()) == ((), [])
    assert await told_to_reload(reloads)


async def test_every_dead_letter_that_matches_can_be_retried_at_once(admin: Admin, rows: Rows) -> None:
    mailer, stock = await rows.listener("mailer"), await rows.listener("stock")
    for position in range(1, 21):
        await rows.event(position, "orders.placed" if position <= 10 else "orders.paid")
        await rows.dead_letter(mailer, position)
    kept = await rows.dead_letter(stock, 1)
    assert len(await admin.dead_letters.retry(DeadFilter(listener_name="mailer", topic="orders.paid"))) == 10
    assert len(await admin.dead_letters.discard(DeadFilter(listener_name="mailer"))) == 10
    assert [one.id for one in await admin.dead_letters.find()] == [kept]


async def test_two_operators_do_not_retry_the_same_dead_letter_twice(admin: Admin, rows: Rows, database: str) -> None:
    mailer = await rows.listener("mailer")
    for position in range(1, 51):
        await rows.event(position)
        await rows.dead_letter(mailer, position)
    async with Admin.connect(Config(dsn=database)) as other:
        done = await asyncio.gather(admin.dead_letters.retry(), other.dead_letters.retry())
    assert sorted(len(ids) for ids in done) != [50, 50]
    assert len(done[0]) + len(done[1]) == 50
    assert await rows.connection.fetchval("SELECT count(*) FROM pgbus.deliveries") == 50


# -------------------------------------------------------------------------------------------------------- blocked keys


@dataclass
class Poisoned:
    """A listener that blocks on poison: event 1 of `adam` is its dead letter, event 2 of `adam` is in a worker's hands.

    The worker claimed it when the letter was there, and so puts it aside when it settles.
    """

    letter_id: int
    listener_id: int
    delivery_id: int

    async def settle(self, connection: asyncpg.Connection) -> None:
        store = Store(connection, namespace="pgbus")
        token = await connection.fetchval("SELECT claim_token FROM pgbus.deliveries WHERE id = $1", self.delivery_id)
        values, _, _ = settlement([], listener_id=self.listener_id, worker="worker-1", blocking=True)
        values |= {name: [None] for name in values if name.startswith("other_")}
        values |= {"delivery_ids": [self.delivery_id], "claim_tokens": [token], "other_deliveries": [self.delivery_id]}
        values |= {"other_positions": [2], "other_attempts": [1], "other_lanes": [3]}
        values |= {"other_outcomes": ["blocked"], "other_keys": ["adam"]}
        assert len(await deliveries.settle_deliveries(store, values)) == 1


@pytest.fixture
async def poisoned(rows: Rows) -> Poisoned:
    ledger = await rows.listener("ledger", "orders.*", lanes=4)
    for position in (1, 2):
        await rows.event(position, key="adam")
    letter_id = await rows.dead_letter(ledger, 1, lane=3, blocked_key="adam")
    delivery_id = await rows.delivery(ledger, 2, lane=3, worker_id=await rows.worker("worker-1", "ledger"))
    return Poisoned(letter_id, ledger, delivery_id)


async def owed(rows: Rows) -> list[tuple[int, str]]:
    found = await rows.connection.fetch("SELECT first_position, state FROM pgbus.pending ORDER BY 1")
    return [tuple(row) for row in found]


async def waits_for_a_lock(rows: Rows) -> bool:
    waiting: bool = await rows.connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')"
    )
    return waiting


async def test_a_dead_letter_tells_how_many_events_wait_behind_it(admin: Admin, rows: Rows, poisoned: Poisoned) -> None:
    await rows.event(3, key="eve")
    other = await rows.dead_letter(poisoned.listener_id, 3)
    await poisoned.settle(rows.connection)
    letters = {letter.id: letter for letter in await admin.dead_letters.find()}
    assert (letters[poisoned.letter_id].blocked_key, letters[poisoned.letter_id].blocked) == ("adam", 1)
    assert (letters[other].blocked_key, letters[other].blocked) == (None, 0)
    assert (await admin.listeners.list())[0].blocked == 1


async def test_retrying_a_dead_letter_releases_what_waited_behind_it(
    admin: Admin, rows: Rows, poisoned: Poisoned
) -> None:
    await poisoned.settle(rows.connection)
    assert await owed(rows) == [(2, "blocked")]
    await admin.dead_letters.retry()
    assert await owed(rows) == [(1, "waiting"), (2, "waiting")]


async def test_discarding_a_dead_letter_releases_what_waited_behind_it(
    admin: Admin, rows: Rows, poisoned: Poisoned
) -> None:
    await poisoned.settle(rows.connection)
    await admin.dead_letters.discard()
    assert await owed(rows) == [(2, "waiting")]


async def test_a_key_stays_blocked_while_another_of_its_dead_letters_is_left(
    admin: Admin, rows: Rows, poisoned: Poisoned
) -> None:
    await rows.event(3, key="adam")
    other = await rows.dead_letter(poisoned.listener_id, 3, lane=3, blocked_key="adam")
    await poisoned.settle(rows.connection)
    await admin.dead_letters.discard(DeadFilter(ids=(other,)))
    assert await owed(rows) == [(2, "blocked")]
    await admin.dead_letters.discard()
    assert await owed(rows) == [(2, "waiting")]


async def test_an_event_is_not_put_aside_for_a_dead_letter_that_is_gone(
    admin: Admin, rows: Rows, poisoned: Poisoned
) -> None:
    await admin.dead_letters.discard()
    await poisoned.settle(rows.connection)
    assert await owed(rows) == [(2, "waiting")]


async def test_a_worker_that_puts_an_event_aside_waits_for_the_operator_who_takes_its_dead_letter(
    rows: Rows, poisoned: Poisoned, database: str, connect: Connect
) -> None:
    operator, worker = await connect(database), await connect(database)
    async with operator.transaction():
        await Admin(operator).dead_letters.discard()
        settling = asyncio.create_task(poisoned.settle(worker))
        await eventually(lambda: waits_for_a_lock(rows))
    await settling
    assert await owed(rows) == [(2, "waiting")]


async def test_an_operator_who_takes_a_dead_letter_waits_for_the_worker_that_puts_an_event_aside(
    admin: Admin, rows: Rows, poisoned: Poisoned, database: str, connect: Connect
) -> None:
    worker = await connect(database)
    async with worker.transaction():
        await poisoned.settle(worker)
        discarding = asyncio.create_task(admin.dead_letters.discard())
        await eventually(lambda: waits_for_a_lock(rows))
    await discarding
    assert await owed(rows) == [(2, "waiting")]


# ----------------------------------------------------------------------------------------------------------- listeners


async def test_a_listener_is_paused_and_resumed_and_workers_are_told(
    admin: Admin, rows: Rows, reloads: asyncio.Queue[object]
) -> None:
    await rows.listener("mailer")
    await admin.listeners.pause("mailer")
    assert [one.state for one in await admin.listeners.list()] == ["paused"]
    assert await told_to_reload(reloads)
    await admin.listeners.resume("mailer")
    assert [one.state for one in await admin.listeners.list()] == ["active"]
    assert await told_to_reload(reloads)


@pytest.mark.parametrize(
    ("place", "cursor"),
    [
        ("beginning", 0),
        ("now", 6),
        (3, 3),
        (6, 6),
        (NOON + 2 * HOUR, 2),
        (NOON + 2.5 * HOUR, 3),
        (NOON - HOUR, 1),
        (NOON + 99 * HOUR, 6),
    ],
)
async def test_reset_moves_the_cursor_and_drops_what_waits(
    admin: Admin,
    rows: Rows,
    reloads: asyncio.Queue[object],
    place: object,
    cursor: int,
) -> None:
    for position in range(1, 6):
        await rows.event(position, logged_at=NOON + position * HOUR)
    mailer, stock = await rows.listener("mailer"), await rows.listener("stock")
    await rows.delivery(mailer, 1)
    await rows.delivery(mailer, 2, attempt=2)
    claimed = await rows.delivery(mailer, 3, worker_id=1)
    others = await rows.delivery(stock, 1)
    await rows.dead_letter(mailer, 4)
    assert await admin.listeners.reset("mailer", to=place) == cursor  # type: ignore[arg-type] # one of the kinds it takes
    left = await rows.connection.fetch("SELECT id FROM pgbus.deliveries ORDER BY id")
    assert [row["id"] for row in left] == [claimed, others]
    assert [(one.listener_name, one.cursor, one.dead) for one in await admin.listeners.list()] == [
        ("mailer", cursor, 1),
        ("stock", None, 0),
    ]
    assert await told_to_reload(reloads)


@pytest.mark.parametrize("place", [-1, 3, datetime(2025, 1, 1)])  # noqa: DTZ001 - the point of the test
async def test_reset_to_a_place_outside_the_log_is_refused(admin: Admin, rows: Rows, place: int | datetime) -> None:
    await rows.event(1)
    mailer = await rows.listener("mailer")
    await rows.delivery(mailer, 1)
    with pytest.raises(ValueError, match=r"is not a position of the log|has no time zone"):
        await admin.listeners.reset("mailer", to=place)
    assert await rows.connection.fetchval("SELECT count(*) FROM pgbus.deliveries") == 1


async def test_removing_a_listener_takes_all_that_is_owed_to_it(
    admin: Admin, rows: Rows, reloads: asyncio.Queue[object]
) -> None:
    await rows.event(1)
    mailer, stock = await rows.listener("mailer", "orders.*"), await rows.listener("stock", "orders.*")
    for listener_id in (mailer, stock):
        await rows.delivery(listener_id, 1)
        await rows.dead_letter(listener_id, 1)
    await admin.listeners.remove("mailer")
    for table in ("subscriptions", "deliveries", "dead_letters"):
        left = await rows.connection.fetch(f"SELECT listener_id FROM pgbus.{table}")
        assert [row["listener_id"] for row in left] == [stock]
    assert [one.listener_name for one in await admin.listeners.list()] == ["stock"]
    assert await told_to_reload(reloads)


async def test_a_listener_is_not_removed_while_a_live_worker_runs_it(admin: Admin, rows: Rows) -> None:
    await rows.listener("mailer")
    await rows.worker("worker-1", "mailer")
    await rows.worker("worker-2", "mailer", live=False)
    with pytest.raises(InUseError, match="'mailer' is run by worker-1;"):
        await admin.listeners.remove("mailer")
    assert len(await admin.listeners.list()) == 1
    await admin.listeners.remove("mailer", force=True)
    assert await admin.listeners.list() == ()


async def test_admin_works_in_a_namespace_of_its_own(empty_database: str) -> None:
    from pgbus import migrate

    migrate.upgrade(empty_database, namespace="other")
    async with Admin.connect(Config(dsn=empty_database, namespace="other")) as admin:
        status = await admin.status()
        assert (status.log_head, status.listeners) == (0, ())
        assert await admin.find_events() == []
