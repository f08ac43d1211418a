"""A day's work of several people, read back in SQL by someone who was not there."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import asyncpg
import pytest

from pgbus import migrate
from pgbus.database.statements import operations
from pgbus.database.store import Store
from tests.integration.conftest import Invoke
from tests.migrations.conftest import PASSWORD, dsn_of_user
from tests.support.rows import Rows

USERS = {"trail_ann": "pgbus_operator", "trail_night": "pgbus_operator", "trail_auditor": "pgbus_reader"}

# User, command with its reason, and the person where she said it. The night shift shares a user of the database.
WORK = [
    ("trail_ann", "dead retry --error ValueError --since 2h", "SMTP is back", "ann"),
    ("trail_night", "listeners replay mailer --from 2 --to 4", "wrong template", "bob"),
    ("trail_night", "listeners pause mailer", "too many mails", "eve"),
    ("trail_ann", "dead discard --listener shipper", "test orders", None),
    ("trail_ann", "listeners remove mailer", "replaced by post", "ann"),
]

TRAIL = """
SELECT action, verb, requested_by, person, reason, COALESCE(filter ->> 'listener', filter ->> 'error') AS what,
       touched, state
FROM pgbus.audit_trail ORDER BY at
"""
TOUCHED = """
SELECT o.verb, i.listener_name, i.position, i.fingerprint, i.traceback
FROM pgbus.operations AS o JOIN pgbus.operation_items AS i ON i.operation_id = o.id
ORDER BY o.id, i.position
"""
# What a replay has touched is a stretch of the log, of these topics.
REPLAYED = """
SELECT o.result -> 'topics', e.position, e.topic
FROM pgbus.operations AS o
JOIN pgbus.events AS e ON e.position BETWEEN CAST(o.result ->> 'from' AS bigint) AND CAST(o.result ->> 'to' AS bigint)
WHERE o.verb = 'replay' AND o.state = 'done' ORDER BY e.position
"""
GONE = "SELECT result FROM pgbus.operations WHERE verb = $1"


@pytest.fixture
async def users(database: str, rows: Rows) -> AsyncIterator[dict[str, str]]:
    """Two users of operators and one of a reader, by their names: how each connects."""
    migrate.grant_roles(database)
    for user, role in USERS.items():
        await rows.connection.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{PASSWORD}'; GRANT {role} TO {user}")
    yield {user: dsn_of_user(database, user) for user in USERS}
    for user in USERS:
        await rows.connection.execute(f"DROP ROLE {user}")


@pytest.fixture
async def auditor(users: dict[str, str]) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(users["trail_auditor"])
    yield connection
    await connection.close()


@pytest.fixture
async def failures(rows: Rows) -> None:
    for position in range(1, 6):
        await rows.event(position, "orders.placed" if position < 5 else "orders.sent")
    mailer, shipper = await rows.listener("mailer", "orders.placed"), await rows.listener("shipper", "orders.*")
    for listener, position, error in ((mailer, 1, "ValueError: no"), (shipper, 2, "KeyError: 2")):
        await rows.attempt(listener, position, "dead", error=error)
        await rows.dead_letter(listener, position, error=error)
    await rows.connection.execute(
        """UPDATE pgbus.dead_letters
           SET traceback = 'at shop', fingerprint = split_part(error, ':', 1) || ' at shop:send'"""
    )


@pytest.mark.usefixtures("failures")
async def test_a_days_work_answers_who_when_why_what_and_with_what_result(
    invoke: Invoke, users: dict[str, str], auditor: asyncpg.Connection
) -> None:
    morning = await auditor.fetchval("SELECT clock_timestamp()")
    for user, command, reason, person in WORK:
        said = ("--person", person) if person else ()
        yes = () if "pause" in command else ("--yes",)
        result = await invoke(*command.split(), "--reason", reason, *said, *yes, dsn=users[user])
        assert result.exit_code == 0, result.output
    assert [tuple(row) for row in await auditor.fetch(TRAIL)] == [
        ("begin", "retry", "trail_ann", "ann", "SMTP is back", "ValueError", 1, "done"),
        ("begin", "replay", "trail_night", "bob", "wrong template", "mailer", 2, "done"),
        ("begin", "pause", "trail_night", "eve", "too many mails", "mailer", 1, "done"),
        ("begin", "discard", "trail_ann", None, "test orders", "shipper", 1, "done"),
        ("begin", "remove", "trail_ann", "ann", "replaced by post", "mailer", 1, "done"),
    ]
    outside = "SELECT count(*) FROM pgbus.audit_trail WHERE at < $1 OR finished_at < at OR at > clock_timestamp()"
    assert await auditor.fetchval(outside, morning) == 0
    assert [tuple(row) for row in await auditor.fetch(TOUCHED)] == [
        ("retry", "mailer", 1, "ValueError at shop:send", "at shop"),
        ("discard", "shipper", 2, "KeyError at shop:send", "at shop"),
    ]
    replayed = [(2, "orders.placed"), (3, "orders.placed")]
    assert [tuple(row) for row in await auditor.fetch(REPLAYED)] == [('["orders.placed"]', *row) for row in replayed]
    # What it was before: the retried event and the two that were replayed had not been heard again.
    assert json.loads(await auditor.fetchval(GONE, "pause")) == {"was": "active"}
    gone = json.loads(await auditor.fetchval(GONE, "remove"))
    assert (gone["was"], gone["topics"], gone["deliveries_dropped"]) == ("paused", ["orders.placed"], 3)
    assert (gone["first_dropped"], gone["last_dropped"], gone["dead_letters"]) == (1, 3, 0)


@pytest.mark.usefixtures("failures")
async def test_who_continued_or_cancelled_the_work_of_another_is_told(
    invoke: Invoke, users: dict[str, str], auditor: asyncpg.Connection
) -> None:
    connection = await asyncpg.connect(users["trail_ann"])
    for reason in ("mails were lost", "mails are ugly"):  # and her program ends
        why: operations.Why = {"reason": reason, "person": "ann"}
        wanted = {"listener": "mailer", "from": "beginning"}
        await operations.begin_operation(Store(connection, namespace="pgbus"), "replay", wanted, why)
    await connection.close()
    options = ("--person", "bob", "--reason")
    result = await invoke("operations", "continue", "1", *options, "her pod was evicted", dsn=users["trail_night"])
    assert result.output == "operation 1 is done: 4 of 4\n"
    result = await invoke("operations", "cancel", "2", *options, "not at night", dsn=users["trail_night"])
    assert result.output == "cancelled operation 2\n"
    assert [tuple(row) for row in await auditor.fetch(TRAIL)] == [
        ("begin", "replay", "trail_ann", "ann", "mails were lost", "mailer", 4, "done"),
        ("begin", "replay", "trail_ann", "ann", "mails are ugly", "mailer", 0, "cancelled"),
        ("continue", "replay", "trail_night", "bob", "her pod was evicted", "mailer", 4, "done"),
        ("cancel", "replay", "trail_night", "bob", "not at night", "mailer", 0, "cancelled"),
    ]
    shown = (await invoke("operations", "show", "2", dsn=users["trail_auditor"])).output
    assert "by bob (trail_night): not at night" in shown
    shown = (await invoke("operations", "show", "1", "--json", dsn=users["trail_auditor"])).output
    [step] = json.loads(shown)["operation"]["steps"]
    assert (step["step"], step["person"], step["reason"]) == ("continue", "bob", "her pod was evicted")
