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
