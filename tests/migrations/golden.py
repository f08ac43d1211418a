"""The schema as pg_dump tells it, without what differs from run to run. `python -m tests.migrations.golden` writes it,
and the columns on the page of the views.

Write it anew in the commit that changes a migration, and read the difference: it is what databases will get.
"""

import asyncio
import re
import subprocess
from itertools import groupby
from pathlib import Path

import asyncpg

from pgbus import migrate
from tests.migrations.comments import PAGE, filled, read_columns
from tests.support import find_server

GOLDEN = Path(__file__).with_name("schema.sql")
GOLDEN_MAJOR = 18  # the embedded wheel's; pg_dump words some things differently for other servers

_NOISE = re.compile(r"--|SET |SELECT pg_catalog\.set_config|\\(un)?restrict ")


def major_version(program: Path) -> int:
    """The major version of a PostgreSQL program."""
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=180)
    return int(re.findall(r"\d+", answer.stdout)[0])


def dump_schema(dsn: str, *, pg_dump: Path) -> str:
    """The normalised schema of a whole database."""
    command = [str(pg_dump), "--schema-only", "--no-owner", "--no-privileges", "--dbname", dsn]
    return normalise(subprocess.run(command, capture_output=True, text=True, check=True, timeout=180).stdout)


def normalise(dump: str) -> str:
    """The dump without comments, settings, its random key and runs of blank lines."""
    lines = (line for line in dump.splitlines() if not _NOISE.match(line))
    text = "\n".join(
        line for blank, group in groupby(lines, lambda line: not line) for line in ([""] if blank else group)
    )
    return text.strip() + "\n"


def main() -> None:
    from pgbus.embedded import find_binaries

    pg_dump = find_binaries().directory / "pg_dump"
    if major_version(pg_dump) != GOLDEN_MAJOR:
        raise SystemExit(f"install pgbus[embedded]: the golden schema is written by PostgreSQL {GOLDEN_MAJOR}")
    with find_server() as server, server.temporary_database() as dsn:
        migrate.upgrade(dsn)
        GOLDEN.write_text(dump_schema(dsn, pg_dump=pg_dump), encoding="utf-8")
        asyncio.run(_write_page(dsn))


async def _write_page(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        columns = await read_columns(connection)
    finally:
        await connection.close()
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), columns), encoding="utf-8")


if __name__ == "__main__":
    main()
