import subprocess
from pathlib import Path

import psycopg
import pytest

from pgbus import migrate
from tests.migrations.conftest import Dump
from tests.support import DatabaseServer


def run_psql(programs: Path, dsn: str, script: str) -> subprocess.CompletedProcess[str]:
    command = [str(programs / "psql"), "--no-psqlrc", "--quiet", "--dbname", dsn, "--file", "-"]
    return subprocess.run(command, input=script, capture_output=True, text=True, check=False, timeout=180)


@pytest.mark.parametrize("namespace", ["pgbus", "user"])
def test_the_script_gives_the_same_schema_as_an_upgrade(
    server: DatabaseServer, empty_database: str, programs: Path, dump: Dump, namespace: str
) -> None:
    answer = run_psql(programs, empty_database, migrate.sql(namespace=namespace))
    assert (answer.returncode, answer.stderr) == (0, "")
    migrate.check(empty_database, namespace=namespace)
    with server.temporary_database() as upgraded:
        migrate.upgrade(upgraded, namespace=namespace)
        assert dump(empty_database) == dump(upgraded)


def test_a_second_run_of_the_script_fails_and_changes_nothing(database: str, programs: Path, dump: Dump) -> None:
    before = dump(database)
    answer = run_psql(programs, database, migrate.sql())
    assert answer.returncode != 0
    assert "already exists" in answer.stderr
    assert dump(database) == before


def test_a_script_from_the_newest_revision_on_changes_nothing(database: str, programs: Path, dump: Dump) -> None:
    before = dump(database)
    answer = run_psql(programs, database, migrate.sql(start=migrate.head()))
    assert (answer.returncode, answer.stderr) == (0, "")
    assert dump(database) == before


def test_a_script_is_refused_by_a_database_at_another_revision(database: str, programs: Path) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE pgbus.alembic_version SET version_num = '0000'")
    answer = run_psql(programs, database, migrate.sql(start=migrate.head()))
    assert answer.returncode != 0
    assert f"this script goes on from revision {migrate.head()}" in answer.stderr
    assert migrate.current(database) == "0000"
