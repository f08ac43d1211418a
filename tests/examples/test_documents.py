"""What the documents say must be so: their code runs, their SQL fits the views, their commands and links exist."""

import re
import sys
import types
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner

from pgbus.cli.main import pgbus
from tests.conftest import Connect
from tests.examples.documents import PAGES, blocks, commands, name
from tests.examples.programs import ROOT

pages = pytest.mark.parametrize("page", PAGES, ids=name)


@pages
def test_python_compiles(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block.text, name(page), "exec")


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "how-to").glob("*.md")), ids=name)
def test_the_python_of_a_how_to_page_defines_what_it_says(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks in one module: listeners are checked when they are defined, and nothing connects."""
    if page.name == "upgrade.md":  # upgrades a database
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
