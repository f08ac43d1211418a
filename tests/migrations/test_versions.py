import psycopg
import pytest
from alembic.script import ScriptDirectory

from pgbus import migrate
from pgbus.database.migrate.versions import find_fault, scripts_directory
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


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        ("0003", None),
        (None, "the database holds no bus in namespace 'shop' yet: run `pgbus db upgrade`"),
        (
            "0001",
            "namespace 'shop' is at revision 0001, older than the 0003 that this code needs: run `pgbus db upgrade`",
        ),
        (
            "0004",
            "namespace 'shop' is at revision 0004, newer than this code, which ends at 0003: deploy a newer pgbus",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(found: str | None, fault: str | None) -> None:
    assert find_fault(found, known=("0001", "0002", "0003"), namespace="shop") == fault


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
    with pytest.raises(SchemaVersionError, match="newer than this code"):
        migrate.check(database)


async def test_check_async_uses_the_connection_that_is_there(database: str, connect: Connect) -> None:
    connection = await connect(database)
    await migrate.check_async(connection)
    await connection.execute("DELETE FROM pgbus.alembic_version")
    with pytest.raises(SchemaVersionError, match="holds no bus"):
        await migrate.check_async(connection)
    assert await connection.fetchval("SELECT 1") == 1
