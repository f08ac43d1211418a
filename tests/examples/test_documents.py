"""What the documents say must be so: their code runs, their SQL fits the views, their commands and links exist."""

import ast
import configparser
import importlib.util
import re
import sys
import tomllib
import types
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
import yaml
from click.testing import CliRunner

from pgbus import migrate
from pgbus.cli.program import pgbus
from tests.conftest import Connect
from tests.examples.documents import PAGES, blocks, commands, indented_programs, languages, name
from tests.support import ROOT

pages = pytest.mark.parametrize("page", PAGES, ids=name)


@pages
def test_python_compiles(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block.text, name(page), "exec")


@pages
def test_parts_of_programs_compile_and_import_what_is_there(page: Path) -> None:
    for program in indented_programs(page):
        for node in ast.walk(ast.parse(program)):
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            spec = importlib.util.find_spec(node.module)
            assert spec is not None, node.module
            assert spec.origin is not None
            source = Path(spec.origin).read_text(encoding="utf-8")
            assert [one.name for one in node.names if not re.search(rf"\b{one.name}\b", source)] == []


@pages
def test_tables_are_tables(page: Path) -> None:
    """Each has a line below its headings, and as many cells in every row: one that was wrapped has neither."""
    prose = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for table in re.findall(r"^\|.*(?:\n\|.*)*", prose, flags=re.MULTILINE):
        widths = [len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", row))) for row in table.splitlines()]
        assert re.fullmatch(r"[-:| ]+", (*table.splitlines(), "")[1]), table
        assert len(set(widths)) == 1, table


def test_the_migration_of_the_page_makes_the_newest_schema() -> None:
    [program, _] = indented_programs(ROOT / "docs" / "how-to" / "sqlalchemy.md")
    assert f'upgrade_pgbus(op, "{migrate.revisions()[-1]}")' in program


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


EXPLAINED = [page for page in PAGES if page.parent.name in ("explanation", "reference")]


@pytest.mark.parametrize("page", EXPLAINED, ids=name)
def test_the_python_of_an_explanation_defines_what_it_says(page: Path) -> None:
    module = {"__name__": f"page_{page.stem}"}
    for block in blocks(page, "python"):
        exec(compile(block.text, name(page), "exec"), module)


# What becomes of each language of a block; a block of another one would be shown without a test.
TESTED = {
    "ini": "test_files_are_well_formed",
    "mermaid": "tests/unit/test_states_page.py",
    "python": "test_python_compiles, and what runs it",
    "sql": "test_sql_runs",
    "toml": "test_files_are_well_formed",
    "yaml": "test_files_are_well_formed",
}


def test_every_block_has_a_language_with_a_test() -> None:
    found = {(name(page), language) for page in PAGES for language in languages(page)}
    assert sorted((page, language) for page, language in found if language not in TESTED) == []


@pages
def test_files_are_well_formed(page: Path) -> None:
    for block in blocks(page, "yaml"):
        assert list(yaml.safe_load_all(block.text))
    for block in blocks(page, "toml"):
        assert tomllib.loads(block.text)
    for block in blocks(page, "ini"):
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        parser.read_string(block.text)
        assert parser.sections()


def commands_in_files(page: Path) -> list[list[str]]:
    """The commands of pgbus in containers and units of the page."""

    def lists(value: object) -> list[list[str]]:
        if isinstance(value, dict):
            return [found for part in value.values() for found in lists(part)]
        if isinstance(value, list):
            if value[:1] == ["pgbus"]:
                return [[str(word) for word in value[1:]]]
            return [found for part in value for found in lists(part)]
        return []

    documents = [document for block in blocks(page, "yaml") for document in yaml.safe_load_all(block.text)]
    units = "".join(block.text for block in blocks(page, "ini"))
    return [
        *lists(documents),
        *(line.split() for line in re.findall(r"^ExecStart.*?/pgbus (.*)$", units, re.MULTILINE)),
    ]


def test_containers_and_units_call_commands_that_exist() -> None:
    found = [arguments for page in PAGES for arguments in commands_in_files(page)]
    assert len(found) > 5
    for arguments in found:
        answer = CliRunner().invoke(pgbus, [*arguments, "--help"])
        assert answer.exit_code == 0, (arguments, answer.output)


@pages
def test_what_a_command_installs_makes_or_runs_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for wanted in re.findall(r"pgbus\[([\w,-]+)\]", text):
        assert set(wanted.split(",")) <= set(extras), wanted
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for target in re.findall(r"^    make ([a-z-]+)", text, re.MULTILINE):
        assert target in targets, target
    for module in re.findall(r"python -m ((?:tests|benchmarks|examples|pgbus)[\w.]*)", text):
        assert importlib.util.find_spec(module), module


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


GENERATED = "docs/reference/api"
GUIDES = [page for page in PAGES if page.parent.name != "decisions"]  # those begin with the decision


@pytest.mark.parametrize("page", GUIDES, ids=name)
def test_a_page_says_first_what_it_is_for(page: Path) -> None:
    """After its title, before any list, table or code; `## What it is for` may stand between."""
    title, first, *rest = page.read_text(encoding="utf-8").split("\n\n")
    said = rest[0] if first == "## What it is for" else first
    assert title.startswith("# ")
    assert re.match(r"[A-Za-z*`\[(]", said), said
    assert GENERATED in name(page) or len(said.split()) >= 8, said


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


async def test_the_handler_of_the_page_sends_again_only_if_it_does_not_know_that_it_has_sent(
    database: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = ROOT / "docs" / "how-to" / "idempotent-handlers.md"
    table, unsent = (block.text for block in blocks(page, "sql"))
    connection = await connect(database)
    await connection.execute(table)
    sent: list[str] = []

    class Letters:
        is_broken = True

        async def send(self, customer: str) -> None:
            sent.append(customer)
            if self.is_broken:
                raise ConnectionError("after the letter has left")

    module = types.ModuleType("page_idempotent_handlers")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks(page, "python"):
        exec(compile(block.text, name(page), "exec"), module.__dict__)
    letters = Letters()
    module.__dict__.update(letters=letters, pool=connection)
    context = types.SimpleNamespace(event=types.SimpleNamespace(event_id=uuid4()))

    async def attempt() -> None:
        await module.send_letter({"customer": "ada"}, context)

    with pytest.raises(ConnectionError):
        await attempt()
    await connection.execute("UPDATE sent_letters SET begun_at = begun_at - INTERVAL '2 hours'")
    assert [row["event_id"] for row in await connection.fetch(unsent)] == [context.event.event_id]
    letters.is_broken = False
    await attempt()
    await attempt()
    assert sent == ["ada", "ada"]
    assert await connection.fetch(unsent) == []


def test_the_page_lists_every_role() -> None:
    page = (ROOT / "docs" / "how-to" / "upgrade.md").read_text(encoding="utf-8")
    roles = set(re.findall(r"GRANT .* TO pgbus_(\w+)", (ROOT / "migrations" / "sql" / "roles.sql").read_text("utf-8")))
    assert len(roles) > 4
    assert sorted(role for role in roles if f"| `pgbus_{role}` |" not in page) == []
