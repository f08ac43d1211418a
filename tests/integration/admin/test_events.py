"""Finding events, what each listener did with them, and to whom they are still owed."""

from __future__ import annotations

from datetime import datetime
from uuid import uuid4

import asyncpg
import pytest

from pgbus.admin import Admin, Condition, DeadFilter, EventFilter
from pgbus.database import sql
from pgbus.database.statements.inspection import parameters
from pgbus.errors import (
    InvalidEventError,
    NotRegisteredError,
)
from tests.conftest import Connect
from tests.support.operators import HOUR, NOON, positions
from tests.support.rows import Rows


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
    assert [(one.listener_name, one.outcome) for one in record.attempts] == [("mailer", "done")]


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
