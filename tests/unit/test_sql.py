"""The loader of named SQL statements, and the habits that all of them keep."""

import re
from importlib.resources import files

import pytest

from pgbus.database import sql
from pgbus.database.sql import Statement
from pgbus.database.sql.rights import missing_right
from tests.support import ROOT

TEXT = """
-- A comment of the file.

-- name: first_thing
-- Does the first thing.
SELECT a, 'text' -- why
FROM pgbus.outbox   -- where

WHERE a = CAST(:value AS text);

-- name: second_thing
-- Does the second.
DELETE FROM pgbus.outbox
"""


def test_a_file_is_parsed_into_statements_without_comments() -> None:
    assert sql.parse(TEXT) == {
        "first_thing": "SELECT a, 'text'\nFROM pgbus.outbox\nWHERE a = CAST(:value AS text)",
        "second_thing": "DELETE FROM pgbus.outbox",
    }


def test_parameters_are_numbered_for_asyncpg_and_named_for_psycopg() -> None:
    statement = Statement("s", "SELECT :b, CAST(:a AS text), :b, now()::date, '100%' WHERE :a_b > 0")
    assert statement.parameters == ("b", "a", "a_b")
    assert statement.asyncpg == "SELECT $1, CAST($2 AS text), $1, now()::date, '100%' WHERE $3 > 0"
    assert statement.psycopg == ("SELECT %(b)s, CAST(%(a)s AS text), %(b)s, now()::date, '100%%' WHERE %(a_b)s > 0")
    assert statement.arguments({"a": 1, "b": 2, "a_b": 3, "unused": 4}) == [2, 1, 3]


def test_a_forgotten_value_is_named() -> None:
    with pytest.raises(KeyError, match="value"):
        Statement("s", "SELECT :value").arguments({})


def test_a_namespace_replaces_pgbus_in_front_of_names() -> None:
    text = "SELECT pgbus.uuid7() FROM pgbus.outbox AS pgbus_o WHERE my_pgbus.a = 'pgbus'"
    assert sql.in_namespace(text, "pgbus") == text
    assert sql.in_namespace(text, "bus_2") == (
        """SELECT "bus_2".uuid7() FROM "bus_2".outbox AS pgbus_o WHERE my_pgbus.a = 'pgbus'"""
    )


def test_identifiers_are_quoted() -> None:
    assert sql.quote_identifier('a"b') == '"a""b"'


def test_a_statement_bound_as_text_keeps_its_namespace() -> None:
    statement = sql.bound_as_text(sql.load("bus_2")["insert_event"])
    assert statement.namespace == "bus_2"
    assert "bus_2_publisher" in str(missing_right(statement, Exception("permission denied")))


def test_statements_are_loaded_once_for_each_namespace() -> None:
    assert sql.load("pgbus") is sql.load("pgbus")
    assert '"other".outbox' in sql.load("other")["insert_event"].text
    assert "pgbus" not in sql.load("other")["insert_event"].text


@pytest.mark.parametrize("statement", sql.load().values(), ids=lambda statement: statement.name)
def test_every_statement_keeps_the_habits_that_let_one_text_serve_all_drivers(statement: Statement) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", statement.name)
    assert "::" not in statement.text, "casts are written CAST(... AS ...)"
    literals = re.findall(r"'(?:[^']|'')*'", statement.text)
    assert not [text for text in literals if re.search(r":\w", text)], "no parameter stands in a literal"
    assert not statement.text.endswith(";")


@pytest.mark.parametrize(
    "name", ["insert_event", "insert_lines", "insert_events", "insert_events_once", "cancel_event"]
)
def test_publishing_casts_every_parameter_so_that_a_null_has_a_type(name: str) -> None:
    statement = sql.load()[name]
    assert not re.search(r"(?<!:):[a-z]", re.sub(r"CAST\(:\w+ AS [^()]+\)", "", statement.text))


def test_every_statement_says_what_it_does() -> None:
    for path in sorted(files("pgbus.database.sql").iterdir(), key=lambda path: path.name):
        if path.name.endswith(".sql"):
            for body in re.split(r"^-- name: ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
                assert re.match(r"\w+\n-- [A-Z`]", body), f"{path.name}: {body.splitlines()[0]} has no purpose"


MIGRATIONS = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "migrations" / "sql").glob("*_upgrade.sql"))


def columns_of_tables() -> set[str]:
    """The columns of the tables that the migrations create, as `table.column`."""
    found = set()
    for table, body in re.findall(r"^CREATE TABLE pgbus\.(\w+) \((.*?)^\)", MIGRATIONS, re.MULTILINE | re.DOTALL):
        found |= {f"{table}.{column}" for column in re.findall(r"^    ([a-z_]+) +[a-z]", body, re.MULTILINE)}
    return found


def test_migrations_comment_on_what_they_create() -> None:
    """tests/migrations/test_comments.py asks the database, for the columns of views as well."""
    commented = set(re.findall(r"^COMMENT ON (?:\w+) pgbus\.([\w.]+)", MIGRATIONS, re.MULTILINE))
    created = re.findall(r"^CREATE (?:TABLE|VIEW|FUNCTION|PROCEDURE) pgbus\.(\w+)", MIGRATIONS, re.MULTILINE)
    assert len(created) > 80
    assert len(columns_of_tables()) > 180
    assert sorted({*created, *columns_of_tables()} - commented) == []
