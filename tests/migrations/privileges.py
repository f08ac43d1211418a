"""What each group role may do with each table and view, as the table of docs/explanation/security.md.

`python -m tests.migrations.privileges` writes the page's table again; read the difference.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import asyncpg

from pgbus import migrate
from tests.support import find_server

PAGE = Path(__file__).parents[2] / "docs/explanation/security.md"
ROLES = ("_publisher", "_caller", "_worker", "_reader")
MARKED = re.compile(r"(?<=<!-- privileges -->\n).*(?=<!-- end of privileges -->)", re.DOTALL)

PRIVILEGES = """
SELECT c.relname, r.role,
       (SELECT string_agg(CASE WHEN has_table_privilege($1 || r.role, c.oid, p.name) THEN p.letter
                               WHEN p.name <> 'DELETE' AND has_any_column_privilege($1 || r.role, c.oid, p.name)
                               THEN '(' || p.letter || ')' ELSE '' END, '' ORDER BY p.number)
        FROM (VALUES (1, 'SELECT', 'r'), (2, 'INSERT', 'a'), (3, 'UPDATE', 'w'), (4, 'DELETE', 'd'))
            AS p (number, name, letter)) AS may
FROM pg_class AS c
CROSS JOIN unnest($2::text[]) AS r (role)
WHERE c.relnamespace = quote_ident($1)::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
ORDER BY c.relkind = 'v', c.relname
"""


async def privileges_table(connection: asyncpg.Connection, *, namespace: str) -> str:
    """The table in Markdown, of the rights that the roles of a namespace have now."""
    rows = await connection.fetch(PRIVILEGES, namespace, list(ROLES))
    may = {(row["relname"], row["role"]): row["may"] for row in rows}
    lines = [
        "| table or view | " + " | ".join(f"`pgbus{role}`" for role in ROLES) + " |",
        "|---|" + "---|" * len(ROLES),
    ]
    tables = dict.fromkeys(row["relname"] for row in rows)
    lines += [f"| `{table}` | " + " | ".join(may[table, role] for role in ROLES) + " |" for table in tables]
    return re.sub(r"  +\|", " |", "\n".join(lines)) + "\n"


async def _write(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    table = await privileges_table(connection, namespace="pgbus")
    await connection.close()
    PAGE.write_text(MARKED.sub(lambda _: table, PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def main() -> None:
    """Write the table of the page."""
    with find_server() as server, server.temporary_database() as dsn:
        migrate.upgrade(dsn)
        migrate.grant_roles(dsn)
        asyncio.run(_write(dsn))


if __name__ == "__main__":
    main()
