"""Dead letters: listed, retried, discarded."""

from __future__ import annotations

import asyncio

from pgbus.admin import Admin, DeadFilter
from pgbus.config import Config
from tests.support.operators import HOUR, NOON, told_to_reload
from tests.support.rows import Rows


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
