import pytest

from pgbus import migrate
from tests.migrations.conftest import Dump
from tests.migrations.golden import GOLDEN, GOLDEN_MAJOR


def test_the_migrations_add_up_to_the_golden_schema(empty_database: str, dump: Dump, major: int) -> None:
    if major != GOLDEN_MAJOR:
        pytest.skip(f"the golden schema is that of PostgreSQL {GOLDEN_MAJOR}")
    migrate.upgrade(empty_database)
    assert dump(empty_database) == GOLDEN.read_text(encoding="utf-8"), (
        "if it should change: python -m tests.migrations.golden"
    )


def test_downgrade_to_base_leaves_an_empty_namespace(database: str, dump: Dump) -> None:
    migrate.downgrade(database, revision="base")
    assert dump(database) == "CREATE SCHEMA pgbus;\n"


def test_downgrade_of_a_database_without_a_bus_leaves_it_empty(empty_database: str, dump: Dump) -> None:
    migrate.downgrade(empty_database, revision="base")
    assert dump(empty_database) == "\n"


def test_upgrade_after_downgrade_gives_the_same_schema(empty_database: str, dump: Dump) -> None:
    migrate.upgrade(empty_database)
    before = dump(empty_database)
    migrate.downgrade(empty_database, revision="base")
    migrate.upgrade(empty_database)
    assert dump(empty_database) == before
