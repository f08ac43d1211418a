"""What the documents say must be so: their code runs, their SQL fits the views, their commands and links exist."""

import re
import sys
import types
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner

from pgbus.cli.program import pgbus
from tests.conftest import Connect
from tests.examples.documents import PAGES, blocks, commands, name
from tests.support import ROOT

pages = pytest.mark.parametrize("page", PAGES, ids=name)


@pages
def test_python_compiles(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block.text, name(page), "exec")


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "how-to").glob("*.md")), ids=name)
def test_the_python_of_a_how_to_page_defines_what_it_says(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks in one module: listeners are checked when they are defined, and nothing connects."""
    # Upgrades a database; is run by its readers' pytest; shows an example, which has a test of its own.
    if page.name in ("upgrade.md", "testing.md", "litestar.md"):
        return
    if page.name in (
        "fastapi.md",
        "flask.md",
        "from-celery.md",
        "lihil.md",
    ):  # programs of files, which other tests run
        return
    module = types.ModuleType(f"page_{page.stem.replace('-', '_')}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks(page, "python"):
        exec(compile(block.text, name(page), "exec"), module.__dict__)


@pages
async def test_sql_runs(page: Path, database: str, connect: Connect) -> None:
    connection = await connect(database)
    for block in blocks(page, "sql"):
        try:
            await connection.execute(block.text)
        except asyncpg.PostgresError as error:
            pytest.fail(f"{error}\n{block.text}")


@pages
def test_commands_are_accepted_by_the_command_line(page: Path) -> None:
    for arguments in commands(page):
        answer = CliRunner().invoke(pgbus, [*arguments, "--help"])
        assert answer.exit_code == 0, (arguments, answer.output)


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]*)(?:#[^)\s]*)?\)", page.read_text(encoding="utf-8")):
        if target and "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_page_can_be_reached_from_the_index() -> None:
    seen: set[Path] = set()
    todo = [ROOT / "docs" / "index.md"]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        links = re.findall(r"\]\(([^)#\s:]+)(?:#[^)\s]*)?\)", page.read_text(encoding="utf-8"))
        todo += [(page.parent / link).resolve() for link in links]
    assert set((ROOT / "docs").rglob("*.md")) - seen == set()


async def test_the_trigger_of_the_page_publishes_each_closed_ticket_once(database: str, connect: Connect) -> None:
    connection = await connect(database)
    for block in blocks(ROOT / "docs" / "how-to" / "publish-from-sql.md", "sql"):
        await connection.execute(block.text)
    await connection.execute("INSERT INTO tickets (title) VALUES ('printer'), ('coffee'), ('door')")
    await connection.execute("UPDATE tickets SET closed_at = now() WHERE title <> 'door'")
    await connection.execute("UPDATE tickets SET title = upper(title)")
    published = await connection.fetch(
        "SELECT key, payload ->> 'title' FROM pgbus.outbox WHERE topic = 'tickets.closed'"
    )
    assert [tuple(row) for row in published] == [("1", "printer"), ("2", "coffee")]


async def test_a_scheduled_event_can_be_cancelled_with_the_sql_of_the_page(database: str, connect: Connect) -> None:
    connection = await connect(database)
    await connection.execute("""
        INSERT INTO pgbus.outbox (topic, payload, deliver_at)
        SELECT 'orders.unpaid', jsonb_build_object('order_id', n), now() + INTERVAL '1 day'
        FROM generate_series(6, 8) AS n
    """)
    for block in blocks(ROOT / "docs" / "how-to" / "scheduled-events.md", "sql"):
        await connection.execute(block.text)
    left = await connection.fetch("SELECT payload ->> 'order_id' FROM pgbus.scheduled ORDER BY 1")
    assert [row[0] for row in left] == ["6", "8"]
