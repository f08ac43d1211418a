"""The rows of listeners and of workers."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from pgbus.database.statements import listeners, maintenance
from pgbus.database.statements.inspection import find_position_at
from pgbus.database.statements.listeners import Registered, Registration, SubscriptionChanges
from tests.conftest import Connect
from tests.support.bench import Bench
from tests.support.waiting import PATIENCE


async def register(bench: Bench, *, listener_name: str = "mail", service: str = "shop", **values: Any) -> Registered:
    [registered] = await listeners.register_listeners(
        bench.store, [registration(listener_name, **values)], service=service
    )
    return registered


def registration(listener_name: str = "mail", **values: Any) -> Registration:
    defaults: dict[str, Any] = {"lanes": None, "options": "{}", "start_position": None}
    return Registration(listener_name=listener_name, **{**defaults, **values})


async def test_registering_again_makes_no_second_listener_and_sets_no_options(
    bench: Bench,
) -> None:
    first = await register(bench, options='{"a": 1}')
    assert (first.is_new, first.old_options) == (True, None)
    second = await register(bench, options='{"a": 2}', lanes=64, service="new")
    assert (second.id, second.is_new, second.old_options) == (first.id, False, '{"a": 1}')
    assert await bench.fetch("SELECT lanes, options, service FROM pgbus.listeners") == [(None, '{"a": 1}', "shop")]
    newer = {first.id: registration(options='{"a": 2}', lanes=64)}
    await listeners.set_listener_options(bench.store, newer, service="new")
    assert await bench.fetch("SELECT lanes, options, service, state FROM pgbus.listeners") == [
        (64, '{"a": 2}', "new", "active")
    ]


async def test_only_a_new_listener_or_schedule_takes_an_id(bench: Bench) -> None:
    schedule = {"rule": "every 60 s", "missed": "once", "service": "", "run_immediately": False}
    for table, names in (("listeners", ("first", "first", "first", "second")), ("schedules", ("a", "a", "a", "b"))):
        for name in names:
            if table == "listeners":
                await register(bench, listener_name=name)
            else:
                await bench.store.fetch("register_schedule", schedule_name=name, **schedule)
        assert await bench.fetch(f"SELECT id FROM pgbus.{table} ORDER BY id") == [(1,), (2,)]


async def test_replacing_subscriptions_tells_what_was_added_and_what_was_removed(bench: Bench) -> None:
    mail, sms = await register(bench), await register(bench, listener_name="sms")
    first = await listeners.replace_subscriptions(bench.store, {mail.id: ["a.b"], sms.id: ["a.b", "a.c"]})
    assert first[mail.id] == SubscriptionChanges(added=("a.b",), removed=())
    assert set(first[sms.id].added) == {"a.b", "a.c"}
    second = await listeners.replace_subscriptions(bench.store, {mail.id: ["x.*"], sms.id: ["a.b"]})
    assert second[mail.id] == SubscriptionChanges(added=("x.*",), removed=("a.b",))
    assert second[sms.id] == SubscriptionChanges(added=(), removed=("a.c",))


async def test_registering_again_moves_no_cursor_and_ends_no_pause(bench: Bench) -> None:
    await register(bench, start_position=5)
    await bench.connection.execute("UPDATE pgbus.listeners SET state = 'paused', cursor = 9")
    await register(bench, start_position=0)
    assert await bench.fetch("SELECT state, cursor FROM pgbus.listeners") == [("paused", 9)]


async def test_an_instant_becomes_the_position_of_the_next_event_or_the_logs_end(bench: Bench) -> None:
    now = datetime.now(UTC)
    assert await find_position_at(bench.store, instant=now) == 0
    await bench.log(3, logged_at=now - timedelta(hours=2))
    await bench.log(4, logged_at=now)
    assert await find_position_at(bench.store, instant=now - timedelta(hours=1)) == 4
    assert await find_position_at(bench.store, instant=now + timedelta(hours=1)) == 5


async def test_workers_that_register_one_listener_at_once_get_one_row(database: str, connect: Connect) -> None:
    sessions = [Bench(await connect(database)) for _ in range(5)]
    found = await asyncio.gather(*(register(session) for session in sessions))
    assert len({registration.id for registration in found}) == 1
    assert await sessions[0].fetch("SELECT count(*) FROM pgbus.listeners") == [(1,)]


async def test_a_worker_is_registered_locked_counted_touched_and_removed(bench: Bench, other: Bench) -> None:
    worker: dict[str, Any] = {
        "name": "w",
        "service": "s",
        "home": None,
        "host": "h",
        "pid": 1,
        "version": "0",
        "listeners": ["mail"],
    }
    mine = await listeners.register_worker(bench.store, **worker)
    theirs = await listeners.register_worker(other.store, **worker)
    assert await listeners.lock_worker(bench.store, worker_id=mine)
    assert not await listeners.lock_worker(other.store, worker_id=mine)
    listener_id = await bench.rows.listener("mail", "**")
    touch: dict[str, Any] = {
        "worker_id": mine,
        "listener_ids": [listener_id],
        "listeners": ["mail", "other"],
        "failures": {"listener mail": "TypeError: odd"},
        "running": "[]",
    }
    assert await listeners.touch_worker(bench.store, **touch) == 0
    await listeners.lock_worker(other.store, worker_id=theirs)
    await bench.connection.execute(
        "UPDATE pgbus.workers SET last_seen_at = 'epoch'; UPDATE pgbus.listeners SET last_seen_at = 'epoch'"
    )
    assert await listeners.touch_worker(bench.store, **touch) == 1
    seen = "SELECT last_seen_at > now() - interval '1 minute', listeners, failures FROM pgbus.workers ORDER BY id"
    assert await bench.fetch(seen) == [
        (True, ["mail", "other"], '{"listener mail": "TypeError: odd"}'),
        (False, ["mail"], "{}"),
    ]
    assert await bench.fetch("SELECT last_seen_at > 'epoch' FROM pgbus.listeners") == [(True,)]
    await listeners.remove_worker(bench.store, worker_id=mine)
    assert await bench.fetch("SELECT id FROM pgbus.workers") == [(theirs,)]


async def test_touching_a_worker_waits_for_nobody_who_touches_the_same_listeners(bench: Bench, other: Bench) -> None:
    worker: dict[str, Any] = {
        "name": "w",
        "service": "s",
        "home": None,
        "host": "h",
        "pid": 1,
        "version": "0",
        "listeners": ["a", "b"],
    }
    mine = await listeners.register_worker(bench.store, **worker)
    ids = [await bench.rows.listener(name, "**") for name in ("a", "b")]
    for id_ in ids:
        await listeners.note_declarations(bench.store, {id_: (["**"], "{}")}, service="s", worker_id=mine)
    await bench.connection.execute(
        "UPDATE pgbus.listeners SET last_seen_at = 'epoch'; UPDATE pgbus.declarations SET last_seen_at = 'epoch'"
    )
    async with other.connection.transaction(), asyncio.timeout(PATIENCE):
        await other.connection.execute("SELECT FROM pgbus.listeners WHERE id = $1 FOR UPDATE", ids[0])
        await other.connection.execute("SELECT FROM pgbus.declarations WHERE listener_id = $1 FOR UPDATE", ids[1])
        await listeners.touch_worker(
            bench.store, worker_id=mine, listener_ids=ids, listeners=["a", "b"], failures={}, running="[]"
        )
    old = "last_seen_at < now() - interval '1 minute'"
    assert await bench.fetch(f"SELECT id FROM pgbus.listeners WHERE {old}") == [(ids[0],)]
    assert await bench.fetch(f"SELECT listener_id FROM pgbus.declarations WHERE {old}") == [(ids[1],)]


async def test_what_is_declared_again_at_this_moment_stays_subscribed_when_its_old_declaration_expires(
    bench: Bench, other: Bench
) -> None:
    mail = await register(bench)
    await listeners.note_declarations(bench.store, {mail.id: (["a.b", "a.c"], "{}")}, service="shop", worker_id=1)
    await bench.connection.execute("UPDATE pgbus.declarations SET last_seen_at = 'epoch'")
    await listeners.note_declarations(bench.store, {mail.id: (["a.b"], "{}")}, service="shop", worker_id=2)
    await listeners.replace_subscriptions(bench.store, {mail.id: ["a.b", "a.c"]})
    subscribed = "SELECT pattern FROM pgbus.subscriptions ORDER BY pattern"
    async with other.connection.transaction():
        await register(other)
        again = {mail.id: (["a.c"], '{"concurrency": 2}')}
        await listeners.note_declarations(other.store, again, service="shop", worker_id=3)
        await listeners.replace_subscriptions(other.store, {mail.id: ["a.b", "a.c"]})
        await maintenance.expire_declarations(bench.store, ttl=3600.0)
    assert await bench.fetch(subscribed) == [("a.b",), ("a.c",)]
    await maintenance.expire_declarations(bench.store, ttl=3600.0)
    assert await bench.fetch(subscribed) == [("a.b",), ("a.c",)]
    assert await bench.fetch("SELECT count(*) FROM pgbus.declarations") == [(2,)]
