import asyncio

import psycopg
import pytest
from alembic.script import ScriptDirectory

from pgbus import migrate
from pgbus.database.migrate.versions import OLDEST_SCHEMA, Code, Schema, find_fault, scripts_directory
from pgbus.errors import SchemaVersionError
from tests.conftest import Connect


def test_file_names_give_the_order_that_alembic_runs() -> None:
    walked = [script.revision for script in ScriptDirectory(scripts_directory()).walk_revisions()]
    assert list(reversed(walked)) == list(migrate.revisions())
    assert migrate.head() == walked[0]


@pytest.mark.parametrize("revision", migrate.revisions())
def test_every_revision_has_its_sql_both_ways(revision: str) -> None:
    for way in ("upgrade", "downgrade"):
        assert len(list((scripts_directory() / "sql").glob(f"{revision}_*_{way}.sql"))) == 1


NO_BUS = "the database holds no bus in namespace 'shop' yet: run `pgbus db upgrade`"
OLDER = "namespace 'shop' is at revision 0001, older than the 0002 that this code needs: run `pgbus db upgrade`"
NEWER = "namespace 'shop' is at revision 0005, newer than this code, which ends at 0003: deploy a newer pgbus"


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (None, NO_BUS),
        (Schema("0001"), OLDER),
        (Schema("0002"), None),
        (Schema("0003"), None),
        (Schema("0005", oldest_code="0001"), None),
        (Schema("0005", oldest_code="0003"), None),
        (Schema("0005", oldest_code="0004"), NEWER),
        (Schema("0005", oldest_code=None), NEWER),
    ],
)
def test_what_is_wrong_is_said_in_one_line(found: Schema | None, fault: str | None) -> None:
    code = Code(("0001", "0002", "0003"), oldest_schema="0002")
    assert find_fault(found, code=code, namespace="shop") == fault


def test_the_oldest_schema_of_this_code_is_one_of_its_revisions() -> None:
    assert OLDEST_SCHEMA in migrate.revisions()


async def test_each_revision_says_what_the_oldest_code_is_that_may_run_on_it(
    empty_database: str, connect: Connect
) -> None:
    connection = await connect(empty_database)
    oldest: list[str] = []
    for revision in migrate.revisions():
        await asyncio.to_thread(migrate.upgrade, empty_database, revision=revision)
        oldest.append(await connection.fetchval("SELECT pgbus.oldest_code()"))
        assert oldest[-1] <= revision
    assert oldest == sorted(oldest)
    for revision, code in reversed(list(zip(migrate.revisions(), oldest, strict=True))[:-1]):
        await asyncio.to_thread(migrate.downgrade, empty_database, revision=revision)
        assert await connection.fetchval("SELECT pgbus.oldest_code()") == code


def test_check_accepts_an_upgraded_database(database: str) -> None:
    migrate.check(database)


def test_check_refuses_a_database_without_a_bus(empty_database: str) -> None:
    with pytest.raises(SchemaVersionError, match="run `pgbus db upgrade`"):
        migrate.check(empty_database)


def test_check_refuses_another_namespace_than_the_upgraded_one(database: str) -> None:
    with pytest.raises(SchemaVersionError, match="no bus in namespace 'elsewhere'"):
        migrate.check(database, namespace="elsewhere")


def test_check_refuses_a_newer_database(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE pgbus.alembic_version SET version_num = '9999'")
        connection.execute(
            "CREATE OR REPLACE FUNCTION pgbus.oldest_code() RETURNS text LANGUAGE sql AS $$ SELECT '9998' $$"
        )
    with pytest.raises(SchemaVersionError, match="newer than this code"):
        migrate.check(database)


def test_code_goes_on_with_a_newer_database_that_says_that_it_may(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE pgbus.alembic_version SET version_num = '9999'")
        # Its revision replaced no function: the code before it may go on.
    migrate.check(database)
    migrate.upgrade(database)
    assert migrate.current(database) == "9999"


async def test_check_async_uses_the_connection_that_is_there(database: str, connect: Connect) -> None:
    connection = await connect(database)
    await migrate.check_async(connection)
    await connection.execute("DELETE FROM pgbus.alembic_version")
    with pytest.raises(SchemaVersionError, match="holds no bus"):
        await migrate.check_async(connection)
    assert await connection.fetchval("SELECT 1") == 1
