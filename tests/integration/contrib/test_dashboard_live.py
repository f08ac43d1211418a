"""Live pages: one reader for all viewers, and nothing read while nobody looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from uuid import UUID, uuid4

import asyncpg

from pgbus.admin import Admin
from pgbus.contrib.dashboard.chronicle import BUCKETS, Chronicler
from pgbus.contrib.dashboard.live import Feed
from pgbus.contrib.dashboard.sequence import draw_sequence
from pgbus.database.statements.dashboard import read_tree
from tests.support.rows import Rows
from tests.support.waiting import PATIENCE


async def next_text(messages: AsyncIterator[str]) -> str:
    async with asyncio.timeout(PATIENCE):
        async for message in messages:
            if message.startswith("data: "):
                return message.removeprefix("data: ").strip()
    raise AssertionError("the stream has ended")


def messages_of(feed: Feed, key: str, render: object) -> AsyncIterator[str]:
    return feed.stream(key, render).body_iterator  # type: ignore[arg-type, return-value] # a stream of ours has texts


async def test_five_viewers_of_one_address_cost_one_reading() -> None:
    readings = 0
    seen = asyncio.Event()

    async def render() -> str:
        nonlocal readings
        readings += 1
        if readings > 1:
            await seen.wait()
        return f"reading {readings}"

    feed = Feed(period=0)
    viewers = [messages_of(feed, "/", render) for _ in range(5)]
    assert {await next_text(viewer) for viewer in viewers} == {"reading 1"}
    seen.set()
    assert await next_text(viewers[0]) != "reading 1"
    await feed.close()


async def test_nothing_is_read_once_the_last_viewer_has_gone() -> None:
    readings = 0

    async def render() -> str:
        nonlocal readings
        readings += 1
        return f"reading {readings}"

    feed = Feed(period=0)
    async with aclosing(messages_of(feed, "/", render)) as viewer:  # type: ignore[type-var] # it is a generator
        await next_text(viewer)
    reader = feed._reader
    assert reader is not None
    async with asyncio.timeout(PATIENCE):
        await reader
    after = readings
    for _ in range(10):
        await asyncio.sleep(0)
    assert readings == after


async def test_a_page_that_cannot_be_read_ends_its_streams_and_no_other() -> None:
    async def fail() -> str:
        raise ValueError("no")

    async def render() -> str:
        return str(uuid4())

    feed = Feed(period=0)
    good, bad = messages_of(feed, "/", render), messages_of(feed, "/bad", fail)
    await next_text(good)
    async with asyncio.timeout(PATIENCE):
        assert [message async for message in bad] == [": open\n\n"]
    await next_text(good)
    await feed.close()


async def test_the_chronicle_has_what_happened_in_intervals_that_are_over(
    connection: asyncpg.Connection, rows: Rows
) -> None:
    mailer = await rows.listener("mailer", "orders.*")
    await rows.event(1)
    await connection.execute(
        """
        UPDATE pgbus.events SET logged_at = now() - interval '70 s';
        INSERT INTO pgbus.history (first, listener_id, attempt, outcome, started_at, duration, worker, error)
        SELECT 1, %s, n, CASE n WHEN 1 THEN 'retry' ELSE 'done' END, now() - interval '60 s', 0.25, 'w', NULL
        FROM generate_series(1, 2) AS n
        """.replace("%s", str(mailer))
    )
    chronicle = await Chronicler().read(Admin(connection).store)
    assert len(chronicle.instants) == BUCKETS
    [found] = [one for one in chronicle.of("mailer") if one]
    assert (found.done, found.failed) == (1, 1)
    assert found.quantiles is not None
    assert list(found.quantiles) == [0.25, 0.25, 0.25]
    assert found.lag is not None
    assert 9 < found.lag < 11


async def test_a_tree_is_drawn_with_an_arrow_for_each_delivery_call_and_answer(
    connection: asyncpg.Connection, rows: Rows
) -> None:
    shipper = await rows.listener("ship", "orders.*")
    root = await rows.event(1)
    await rows.attempt(shipper, 1)
    call_id: UUID = await connection.fetchval(
        """
        INSERT INTO pgbus.rpc_requests (call_id, procedure, arguments, headers, caller, caller_name, deadline, taken_at)
        VALUES (pgbus.uuid7(), 'carrier.quote', '{}',
                jsonb_build_object('correlation_id', $1::text, 'causation_id', $1::text),
                'c', 'web-1', now() + interval '1 minute', now())
        RETURNING call_id
        """,
        str(root),
    )
    await connection.execute(
        """
        INSERT INTO pgbus.rpc_responses (call_id, outcome, result, worker, responded_at)
        VALUES ($1, 'answered', '1', 'server-1', clock_timestamp())
        """,
        call_id,
    )
    tree = await read_tree(Admin(connection).store, member_id=call_id, limit=10)
    assert [(node.depth, node.kind, node.name) for node in tree] == [
        (0, "event", "orders.placed"),
        (1, "call", "carrier.quote"),
    ]
    drawn = draw_sequence(tree)
    assert [arrow.step.label for arrow in drawn.arrows] == ["orders.placed \u2192 ship", "carrier.quote()", "answered"]
    assert {name for name, _ in drawn.services} >= {"web-1", "server-1", "shop"}
