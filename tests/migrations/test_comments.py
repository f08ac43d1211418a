"""Every table, view, column and function says in the database what it is, and the page of the views says the same."""

import pytest

from tests.conftest import Connect
from tests.migrations.comments import PAGE, Column, filled, functions_without_comment, read_columns, shown


@pytest.fixture
async def columns(database: str, connect: Connect) -> list[Column]:
    return await read_columns(await connect(database))


async def test_every_table_view_and_column_has_a_comment(columns: list[Column]) -> None:
    assert len(columns) > 200
    without = [f"{one.relation}.{one.name}" for one in columns if not one.comment]
    assert (without, {one.relation for one in columns if not one.about}) == ([], set())


async def test_a_duration_says_its_unit(columns: list[Column]) -> None:
    durations = [one for one in columns if "double precision" in one.type or one.type.startswith("real")]
    assert len(durations) > 5
    assert [f"{one.relation}.{one.name}" for one in durations if "econds" not in (one.comment or "")] == []


async def test_every_function_has_a_comment(database: str, connect: Connect) -> None:
    assert await functions_without_comment(await connect(database)) == []


async def test_the_page_has_every_view_as_the_database_describes_it(columns: list[Column]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert shown(page) == {one.relation for one in columns if one.is_view}
    assert filled(page, columns) == page, "python -m tests.migrations.golden writes it"
