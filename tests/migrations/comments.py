"""The comments in the database, and the page of the views, whose tables are made of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import asyncpg

from tests.support import ROOT

PAGE = ROOT / "docs" / "reference" / "views.md"

_COLUMNS = """
    SELECT c.relname AS relation, c.relkind = 'v' AS is_view, obj_description(c.oid, 'pg_class') AS about,
           a.attname AS column, format_type(COALESCE(NULLIF(t.typbasetype, 0), a.atttypid), NULL) AS type,
           col_description(c.oid, a.attnum) AS comment
    FROM pg_class AS c
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type AS t ON t.oid = a.atttypid
    WHERE c.relnamespace = 'pgbus'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
      AND c.relname <> 'alembic_version'
    ORDER BY c.relname, a.attnum
"""
_FUNCTIONS = """
    SELECT p.oid::regprocedure::text FROM pg_proc AS p
    WHERE p.pronamespace = 'pgbus'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL
    ORDER BY 1
"""
_TABLE = re.compile(r"(<!-- columns of (\w+) -->\n).*?(<!-- end of columns -->)", re.DOTALL)


class Column(NamedTuple):
    """A column of a table or view, with the comments on both; a type without the name of its domain."""

    relation: str
    is_view: bool
    about: str | None
    name: str
    type: str
    comment: str | None


async def read_columns(connection: asyncpg.Connection) -> list[Column]:
    return [Column(*row) for row in await connection.fetch(_COLUMNS)]


async def functions_without_comment(connection: asyncpg.Connection) -> list[str]:
    return [row[0] for row in await connection.fetch(_FUNCTIONS)]


def filled(page: str, columns: Iterable[Column]) -> str:
    """The page with the tables of its views as the database describes them."""
    views: dict[str, list[Column]] = {}
    for column in columns:
        views.setdefault(column.relation, []).append(column)
    return _TABLE.sub(lambda found: found[1] + _table(views[found[2]]) + found[3], page)


def shown(page: str) -> set[str]:
    """The views whose columns the page has."""
    return {found[1] for found in _TABLE.findall(page)}


def _table(columns: list[Column]) -> str:
    rows = "".join(f"| `{column.name}` | {column.type} | {_cell(column.comment)} |\n" for column in columns)
    return f"\n{columns[0].about}.\n\n| column | type | meaning |\n|---|---|---|\n{rows}\n"


def _cell(text: str | None) -> str:
    # Asterisks and angle brackets of rules and patterns are not Markdown here.
    return (text or "").replace("|", r"\|").replace("*", r"\*")
