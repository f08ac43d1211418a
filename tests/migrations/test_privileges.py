"""The rights of the group roles are those that the page on security says, and no others."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from pgbus import migrate
from tests.migrations.privileges import MARKED, PAGE, ROLES, privileges_table

UNFIXED = """
SELECT p.proname FROM pg_proc AS p
WHERE p.pronamespace = quote_ident($1)::regnamespace AND p.prosecdef
  AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false)
"""
MORE = """
SELECT c.relname, r.role FROM pg_class AS c CROSS JOIN unnest($2::text[]) AS r (role)
WHERE c.relnamespace = quote_ident($1)::regnamespace AND c.relkind IN ('r', 'p')
  AND has_table_privilege($1 || r.role, c.oid, 'TRUNCATE, REFERENCES, TRIGGER')
"""

# Columns that a role may read or write although it may not the whole table.
COLUMNS = """
SELECT p.grantee_role AS role, p.relname, p.verb, array_agg(p.attname ORDER BY p.attname) AS columns
FROM (
    SELECT r.role AS grantee_role, c.relname, v.verb, a.attname
    FROM unnest($2::text[]) AS r (role)
    CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE']) AS v (verb)
    JOIN pg_class AS c ON c.relnamespace = quote_ident($1)::regnamespace AND c.relkind IN ('r', 'p', 'v')
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE has_column_privilege($1 || r.role, c.oid, a.attnum, v.verb)
      AND NOT has_table_privilege($1 || r.role, c.oid, v.verb)
) AS p
GROUP BY 1, 2, 3
"""
WRITTEN = {
    ("_publisher", "outbox", "INSERT"): "ancestors deliver_at event_id headers key payload published_by topic wake",
    ("_publisher", "outbox", "SELECT"): "event_id",
    ("_publisher", "schemas", "INSERT"): "about hash kind name schema service version",
    ("_caller", "rpc_requests", "INSERT"): "arguments call_id caller caller_name deadline headers procedure",
}
"""Nobody who publishes or calls writes an id, an instant, a claim or a result."""
HIDDEN = {("rpc_requests", "caller"), ("deliveries", "claim_token"), ("deliveries", "worker_id")}
"""Columns that readers may not read."""
FUNCTIONS = """
SELECT r.role, array_agg(p.proname::text ORDER BY p.proname) AS names
FROM unnest($2::text[]) AS r (role)
JOIN pg_proc AS p ON p.pronamespace = quote_ident($1)::regnamespace AND p.prosecdef
WHERE has_function_privilege($1 || r.role, p.oid, 'EXECUTE')
GROUP BY r.role
"""
AS_OWNER = {
    "_publisher": "republish_schemas take_dedup_keys",
    "_caller": "fail_lost_calls read_responses withdraw_calls",
    "_worker": (
        "drop_partition fail_lost_calls find_installation find_paused_as_copy open_partition pause_copy read_responses "
        "republish_schemas take_dedup_keys withdraw_calls"
    ),
    "_reader": "find_installation find_paused_as_copy preview_operation",
}
UNIDENTIFIED = """
SELECT c.relname FROM pg_class AS c
WHERE c.relnamespace = quote_ident($1)::regnamespace AND c.relkind IN ('r', 'p')
  AND c.relname !~ '^(history|causes|operation_items)'
  AND c.relreplident = 'd' AND NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary)
"""


@pytest.fixture
async def granted(home: str, namespace: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with the schema and the roles."""
    migrate.upgrade(home, namespace=namespace)
    migrate.grant_roles(home, namespace=namespace)
    connection = await asyncpg.connect(home)
    yield connection
    await connection.close()


async def test_the_rights_of_the_roles_are_those_of_the_page(granted: asyncpg.Connection, namespace: str) -> None:
    told = MARKED.search(PAGE.read_text(encoding="utf-8"))
    assert told is not None
    assert told[0] == await privileges_table(granted, namespace=namespace), "run python -m tests.migrations.privileges"


async def test_functions_with_the_rights_of_their_owner_have_a_fixed_search_path(
    granted: asyncpg.Connection, namespace: str
) -> None:
    assert await granted.fetch(UNFIXED, namespace) == []
    assert await granted.fetchval("SELECT count(*) >= 6 FROM pg_proc WHERE prosecdef")


async def test_no_role_may_truncate_a_table_refer_to_it_or_put_a_trigger_on_it(
    granted: asyncpg.Connection, namespace: str
) -> None:
    assert await granted.fetch(MORE, namespace, list(ROLES)) == []


async def test_publishers_and_callers_write_only_these_columns(granted: asyncpg.Connection, namespace: str) -> None:
    rows = await granted.fetch(COLUMNS, namespace, list(ROLES))
    found = {(row["role"], row["relname"], row["verb"]): " ".join(row["columns"]) for row in rows}
    of_readers = {key: columns for key, columns in found.items() if key[0] == "_reader"}
    assert {key: columns for key, columns in found.items() if key not in of_readers} == WRITTEN
    for (_, table, verb), columns in of_readers.items():
        assert verb == "SELECT"
        assert HIDDEN.isdisjoint((table, column) for column in columns.split())


async def test_each_role_runs_only_these_functions_as_the_owner(granted: asyncpg.Connection, namespace: str) -> None:
    rows = await granted.fetch(FUNCTIONS, namespace, list(ROLES))
    assert {row["role"]: " ".join(row["names"]) for row in rows} == AS_OWNER


async def test_every_table_that_changes_can_be_copied_logically(granted: asyncpg.Connection, namespace: str) -> None:
    """The history, the causes and what operations touched are only appended to."""
    assert await granted.fetch(UNIDENTIFIED, namespace) == []
