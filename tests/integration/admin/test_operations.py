"""Every change of a person is an operation: previewed, recorded, carried out in batches, and kept from all hands."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, get_args
from uuid import UUID

import asyncpg
import pytest

from pgbus.admin import Admin, Operation
from pgbus.database.faults import hint_of
from pgbus.database.statements import operations
from pgbus.database.store import Store
from pgbus.errors import InUseError, OperationNotFound
from pgbus.topics import matches
from tests.support.rows import Rows

FIRST = UUID(int=1)

# Every verb, with what it applies to.
VERBS: list[tuple[operations.Verb, dict[str, object]]] = [
    ("retry", {"listener": "mailer"}),
    ("retry_now", {"listener": "mailer"}),
    ("give_up", {"listener": "mailer"}),
    ("discard", {"error": "ValueError at shop:send"}),
    ("replay", {"listener": "mailer", "from": "2", "to": "5"}),
    ("reset", {"listener": "mailer", "to": "now"}),
    ("pause", {"listener": "mailer"}),
    ("resume", {"listener": "mailer"}),
    ("remove", {"listener": "mailer"}),
    ("pause_schedule", {"schedule": "nightly"}),
    ("resume_schedule", {"schedule": "nightly"}),
    ("run_schedule", {"schedule": "nightly"}),
    ("remove_schedule", {"schedule": "nightly"}),
    ("republish", {"event": str(FIRST), "payload": {"n": 2}}),
    ("adopt", {}),
]

STATE = """
SELECT (SELECT json_agg(x ORDER BY x.id) FROM pgbus.deliveries AS x)::text,
       (SELECT json_agg(x ORDER BY x.id) FROM pgbus.dead_letters AS x)::text,
       (SELECT json_agg(x ORDER BY x.id) FROM pgbus.listeners AS x)::text,
       (SELECT json_agg(x ORDER BY x.id) FROM pgbus.schedules AS x)::text,
       (SELECT json_agg(x ORDER BY x.id) FROM pgbus.outbox AS x)::text,
       (SELECT json_agg(x) FROM pgbus.installation AS x)::text,
       (SELECT count(*) FROM pgbus.history)
"""


@pytest.fixture
async def mailer(rows: Rows) -> int:
    """A listener that waits to retry events 1 and 2, and gave up on 3 and 4; and a schedule. The bus ran elsewhere."""
    for position in range(1, 6):
        await rows.event(position)
    mailer: int = await rows.listener("mailer", "**")
    for position in (1, 2):
        await rows.delivery(mailer, position, attempt=3)
    for position in (3, 4):
        await rows.dead_letter(mailer, position)
    await rows.connection.execute(
        """UPDATE pgbus.dead_letters SET fingerprint = 'ValueError at shop:send', traceback = 'at shop';
           UPDATE pgbus.deliveries SET available_at = now() + interval '1 day', last_error = 'KeyError: x';
           INSERT INTO pgbus.schedules (schedule_name, rule, next_run_at, last_seen_at)
           VALUES ('nightly', 'every 60 s', now() + interval '1 hour', now() - interval '1 day');
           INSERT INTO pgbus.installation (system_identifier, database) VALUES (1, 1)"""
    )
    await rows.connection.execute("UPDATE pgbus.events SET event_id = $1 WHERE position = 1", FIRST)
    return mailer


async def test_every_verb_that_the_database_knows_is_among_them(rows: Rows) -> None:
    source = await rows.connection.fetchval("SELECT prosrc FROM pg_proc WHERE proname = 'check_filter'")
    cases = source[source.index("CASE") : source.index("END;")]
    known = set(re.findall(r"'([a-z_]+)'", cases))  # what it takes is in braces
    assert known == {verb for verb, _ in VERBS} == set(get_args(operations.Verb)) - {"pause_copy"}
    with pytest.raises(asyncpg.PostgresError, match="is not a verb of operations") as refused:
        await rows.connection.execute("SELECT pgbus.check_filter('nothing', '{}')")
    assert known == set(re.findall(r"[a-z_]+", hint_of(refused.value) or "")) - {"and"}


@pytest.mark.usefixtures("mailer")
async def test_what_a_copy_pauses_has_its_row(admin: Admin, rows: Rows) -> None:
    before = await rows.connection.fetchrow(STATE)
    await rows.connection.execute("SELECT pgbus.pause_copy()")
    assert await rows.connection.fetchrow(STATE) != before
    [recorded] = await admin.operations.list()
    assert (recorded.verb, recorded.state, recorded.touched) == ("pause_copy", "done", 2)
    assert recorded.result == {"listeners": ["mailer"], "schedules": ["nightly"]}
    assert recorded.requested_by == await rows.connection.fetchval("SELECT session_user::text")


@pytest.mark.usefixtures("mailer")
@pytest.mark.parametrize(("verb", "filter_"), VERBS)
async def test_no_verb_changes_anything_without_its_row(
    admin: Admin, rows: Rows, verb: operations.Verb, filter_: dict[str, object]
) -> None:
    before = await rows.connection.fetchrow(STATE)
    preview = await admin.operations.preview(verb, filter_)
    assert await rows.connection.fetchrow(STATE) == before, "a preview changed something"
    done = await admin.operations.run(verb, filter_, reason="because", person="ann", batch=1)
    changed = await rows.connection.fetchrow(STATE) != before
    assert changed or verb == "resume" or verb == "resume_schedule"
    [recorded] = await admin.operations.list()
    assert recorded == done
    kept = {name: value for name, value in filter_.items() if name != "payload"}  # that is in the new event
    assert (done.state, done.reason, done.person, done.filter) == ("done", "because", "ann", kept)
    assert done.matched == done.touched == preview.matched
    assert done.requested_by == await rows.connection.fetchval("SELECT session_user::text")


async def test_a_retried_dead_letter_keeps_its_traceback_in_the_operation(
    admin: Admin, rows: Rows, mailer: int
) -> None:
    done = await admin.operations.run("retry", {"listener": "mailer", "error": "ValueError"})
    items = await admin.operations.items(done.id)
    assert [(item.position, item.traceback, item.fingerprint) for item in items] == [
        (3, "at shop", "ValueError at shop:send"),
        (4, "at shop", "ValueError at shop:send"),
    ]
    assert await rows.connection.fetchval("SELECT count(*) FROM pgbus.deliveries WHERE listener_id = $1", mailer) == 4


async def test_a_listener_that_is_removed_leaves_its_name_and_its_dead_letters(
    admin: Admin, rows: Rows, mailer: int
) -> None:
    await rows.attempt(mailer, 5, "done")
    done = await admin.operations.run("remove", {"listener": "mailer"})
    assert done.result == {
        "was": "active",
        "topics": ["**"],
        "deliveries_dropped": 2,
        "first_dropped": 1,
        "last_dropped": 2,
        "dead_letters": 2,
        "position": 1,
    }
    assert [item.position for item in await admin.operations.items(done.id)] == [3, 4]
    names = "SELECT DISTINCT listener_name FROM pgbus.attempts"
    assert [row[0] for row in await rows.connection.fetch(names)] == ["mailer"]
    # Again under its name, it is another one.
    await rows.listener("mailer")
    assert await rows.connection.fetchval("SELECT count(*) FROM pgbus.removed_listeners") == 1


async def test_what_a_reset_to_now_drops_does_not_look_as_if_it_waited(admin: Admin, rows: Rows, mailer: int) -> None:
    await rows.attempt(mailer, 1, "retry", attempt=2)
    await admin.operations.run("reset", {"listener": "mailer", "to": "now"})
    query = "SELECT position, attempt, outcome FROM pgbus.attempts WHERE outcome = 'skipped' ORDER BY position"
    assert [tuple(row) for row in await rows.connection.fetch(query)] == [(1, 2, "skipped"), (2, 2, "skipped")]
    assert await rows.connection.fetchval("SELECT count(*) FROM pgbus.dead_letters") == 2


async def test_a_reset_to_the_past_hears_dead_letters_again_and_doubles_none(
    admin: Admin, rows: Rows, mailer: int
) -> None:
    done = await admin.operations.run("reset", {"listener": "mailer", "to": "4"})
    left = await rows.connection.fetch("SELECT position FROM pgbus.dead_letters WHERE listener_id = $1", mailer)
    assert [row["position"] for row in left] == [3]
    assert [item.position for item in await admin.operations.items(done.id)] == [4]


async def test_an_operation_that_was_broken_off_is_continued_and_does_nothing_twice(
    admin: Admin, rows: Rows, mailer: int
) -> None:
    store = Store(rows.connection, namespace="pgbus")
    number = await operations.begin_operation(store, "discard", {"listener": "mailer"}, {})
    half = await operations.continue_operation(store, number, batch=1)
    assert (half.state, half.touched) == ("running", 1)
    await rows.dead_letter(mailer, 5)  # later than the operation, and not its own
    done = await admin.operations.resume(number, reason="the pod was evicted", person="ann")
    assert (done.state, done.touched, done.matched) == ("done", 2, 2)
    assert await admin.operations.resume(number) == done
    assert [(step.step, step.reason, step.person) for step in done.steps] == [
        ("continue", "the pod was evicted", "ann")
    ]
    left = await rows.connection.fetch("SELECT position FROM pgbus.dead_letters")
    assert [row["position"] for row in left] == [5]
    query = "SELECT count(*) FROM pgbus.attempts WHERE outcome = 'discarded'"
    assert await rows.connection.fetchval(query) == 2


@pytest.mark.usefixtures("mailer")
async def test_a_cancelled_operation_stops_after_its_batch(admin: Admin, rows: Rows) -> None:
    store = Store(rows.connection, namespace="pgbus")
    number = await operations.begin_operation(store, "discard", {}, {"reason": "oops"})
    await operations.continue_operation(store, number, batch=1)
    assert await admin.operations.cancel(number, reason="wrong listener", person="bob")
    assert not await admin.operations.cancel(number)
    after = await admin.operations.resume(number)
    assert (after.state, after.touched) == ("cancelled", 1)
    [step] = after.steps
    assert (step.step, step.reason, step.person) == ("cancel", "wrong listener", "bob")
    assert (step.requested_at, step.requested_by) <= (after.finished_at, after.requested_by)
    assert await rows.connection.fetchval("SELECT count(*) FROM pgbus.dead_letters") == 1
    with pytest.raises(OperationNotFound, match="there is no operation 99"):
        await admin.operations.show(99)


@pytest.mark.usefixtures("mailer")
async def test_a_refused_operation_leaves_no_row(admin: Admin, rows: Rows) -> None:
    await rows.worker("worker-1", "mailer")
    with pytest.raises(InUseError, match="'mailer' is run by worker-1; stop or change these workers first"):
        await admin.operations.run("remove", {"listener": "mailer"})
    assert await admin.operations.list() == []


@pytest.mark.usefixtures("mailer")
@pytest.mark.parametrize(
    ("verb", "filter_", "said"),
    [
        ("erase_all", {}, '"erase_all" is not a verb of operations'),
        ("retry", {"schedule": "x"}, "retry does not take schedule"),
        ("retry", {"listener": "nobody"}, 'there is no listener "nobody"'),
        ("retry", {"topic": "a b"}, '"a b" is not a topic or pattern'),
        ("pause", {}, 'there is no listener ""'),
        ("run_schedule", {"schedule": "x"}, 'there is no schedule "x"'),
        ("reset", {"listener": "mailer", "to": "99"}, "99 is not a position of the log, which ends at 5"),
    ],
)
async def test_sql_says_what_is_wrong_with_a_filter(
    admin: Admin, verb: Any, filter_: dict[str, Any], said: str
) -> None:
    with pytest.raises(asyncpg.PostgresError, match=said):
        await admin.operations.run(verb, filter_)
    assert await admin.operations.list() == []


@pytest.mark.usefixtures("mailer")
@pytest.mark.parametrize(
    ("filter_", "positions"),
    [
        ({"topic": "orders.*"}, [3, 4]),
        ({"topic": "x.**"}, []),
        ({"ids": [1]}, [3]),
        ({"error": "KeyError"}, []),
        ({"since": "2000-01-01"}, [3, 4]),
        ({"until": "2000-01-01"}, []),
        ({"key": "nobody's"}, []),
        ({"where": {}}, [3, 4]),
        ({"condition": "$ ? (@.nothing == 1)"}, []),
    ],
)
async def test_a_filter_leaves_what_it_accepts(admin: Admin, filter_: dict[str, Any], positions: list[int]) -> None:
    preview = await admin.operations.preview("retry", filter_)
    assert preview.matched == len(positions)
    assert sorted(one["position"] for one in preview.sample) == positions


# Events as (topic, ancestors), and what listeners of them subscribe to.
LOGGED: list[tuple[str, list[str] | None]] = [
    ("orders.placed", None),
    ("orders.placed", ["orders.changed", "shop.happened"]),
    ("orders", ["shop"]),
    ("orders.placed.twice", []),
    ("shop.happened", None),
    ("mail.sent", ["shop.happened"]),
    ("mail_sent", ["orders"]),
]
HEARD = [("orders.placed",), ("orders.*",), ("**",), ("*.happened", "orders"), ("shop", "mail.**"), ("nothing.*",)]


@pytest.mark.parametrize("patterns", HEARD, ids=str)
async def test_a_replay_touches_what_its_preview_counts_and_no_more(
    admin: Admin, rows: Rows, patterns: tuple[str, ...]
) -> None:
    for position, (topic, ancestors) in enumerate(LOGGED, start=1):
        await rows.event(position, topic, ancestors=ancestors, key=f"key {position % 2}")
    listener = await rows.listener("mailer", *patterns)

    def is_of(position: int, *wanted: str) -> bool:
        topic, ancestors = LOGGED[position - 1]
        return any(matches(one, name) for one in wanted for name in (topic, *(ancestors or ())))

    heard = [position for position in range(1, len(LOGGED) + 1) if is_of(position, *patterns)]
    filters: list[tuple[dict[str, object], list[int]]] = [
        ({}, heard),
        ({"topic": "orders.**"}, [one for one in heard if is_of(one, "orders.**")]),
        ({"topic": "shop.happened"}, [one for one in heard if is_of(one, "shop.happened")]),
        ({"key": "key 1"}, [one for one in heard if one % 2]),
        ({"from": "2", "to": "6", "condition": "$ ? (@.n > 2)"}, [one for one in heard if 2 < one < 6]),
    ]
    for filter_, positions in filters:
        filter_ = {**filter_, "listener": "mailer"}
        preview = await admin.operations.preview("replay", filter_)
        done = await admin.operations.run("replay", filter_, batch=2)
        deleted = await rows.connection.fetch(
            "DELETE FROM pgbus.deliveries WHERE listener_id = $1 RETURNING first", listener
        )
        assert sorted(row["first"] for row in deleted) == positions, filter_
        assert (preview.matched, done.matched, done.touched) == (len(positions),) * 3, filter_
        assert [one["position"] for one in preview.sample] == positions[:5], filter_


async def test_a_days_work_is_read_back_in_sql(admin: Admin, rows: Rows, mailer: int) -> None:
    work: list[Callable[[], Awaitable[Operation]]] = [
        lambda: admin.operations.run("retry", {"error": "ValueError at shop:send", "ids": [1]}, reason="SMTP is back"),
        lambda: admin.operations.run("replay", {"listener": "mailer", "from": "1", "to": "3"}, person="ann"),
        lambda: admin.operations.run("pause", {"listener": "mailer"}, reason="too many mails"),
        lambda: admin.operations.run("discard", {"listener": "mailer"}, reason="test orders", person="bob"),
        lambda: admin.operations.run("remove", {"listener": "mailer"}),
    ]
    for one in work:
        await one()
    told = await rows.connection.fetch("SELECT verb, person, reason, touched FROM pgbus.operations ORDER BY id")
    assert [tuple(row) for row in told] == [
        ("retry", None, "SMTP is back", 1),
        ("replay", "ann", None, 2),
        ("pause", None, "too many mails", 1),
        ("discard", "bob", "test orders", 1),
        ("remove", None, None, 1),
    ]
    touched = await rows.connection.fetch(
        """SELECT o.verb, i.listener_name, i.position FROM pgbus.operations AS o
           JOIN pgbus.operation_items AS i ON i.operation_id = o.id ORDER BY o.id, i.position"""
    )
    assert [tuple(row) for row in touched] == [("retry", "mailer", 3), ("discard", "mailer", 4)]
