"""The README's example and the tutorial, step by step, as a reader takes them."""

import shlex
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from pgbus.embedded import find_binaries
from pgbus.errors import EmbeddedPostgresError
from pgbus.testing.databases import DatabaseServer
from tests.conftest import Connect
from tests.examples.documents import blocks, outline, write_files
from tests.examples.programs import pgbus, python, run
from tests.support import ROOT
from tests.support.waiting import eventually

TUTORIAL = ROOT / "docs" / "tutorial" / "first-service.md"
TESTING = ROOT / "docs" / "how-to" / "testing.md"
QUICKSTART = ROOT / "examples" / "quickstart"


async def test_the_example_of_the_readme_runs(database: str, tmp_path: Path) -> None:
    write_files(ROOT / "README.md", tmp_path)
    async with run(*pgbus("run", "shop"), dsn=database, cwd=tmp_path) as worker:
        await worker.wait_for("send_confirmation is new")
        async with run(*python("shop.py"), dsn=database, cwd=tmp_path) as shop:
            assert await shop.wait() == 0, shop.output
        await worker.wait_for("to ada@example.com: thank you for order 1\n")


async def test_the_example_of_the_readme_needs_no_more_than_pgbus_dev(tmp_path: Path) -> None:
    try:
        find_binaries()
    except EmbeddedPostgresError as error:
        pytest.skip(f"needs PostgreSQL's programs: {error}")
    write_files(ROOT / "README.md", tmp_path)
    async with run(*pgbus("dev"), dsn=None, cwd=tmp_path) as server:
        await server.wait_for("Ctrl-C stops it")
        (line,) = [line for line in server.output.splitlines() if line.startswith("export ")]
        [dsn] = shlex.split(line.removeprefix("export PGBUS_DSN="))
        async with run(*python("shop.py"), dsn=dsn, cwd=tmp_path) as shop:
            assert await shop.wait() == 0, shop.output


def test_the_tutorial_shows_the_files_of_the_quickstart() -> None:
    shown = {block.file: block.text for language in ("python", "sql") for block in blocks(TUTORIAL, language)}
    for path in (*QUICKSTART.glob("[!_]*.py"), *QUICKSTART.glob("*.sql")):
        assert shown[path.name] == path.read_text(encoding="utf-8")


async def test_the_tutorial_works_as_it_says(database: str, connect: Connect) -> None:
    connection = await connect(database)
    await connection.execute((QUICKSTART / "tables.sql").read_text())

    async def call(*command: str) -> str:
        async with run(*command, dsn=database, cwd=QUICKSTART) as program:
            await program.wait()
        return program.output

    async with run(*pgbus("run"), dsn=database, cwd=QUICKSTART) as worker:
        await worker.wait_for("count_orders is new")
        assert "placed order 1" in await call(*python("place_order.py", "ada@example.com"))
        assert "rolled back" in await call(*python("place_order.py", "changed-my-mind@example.com"))
        assert "placed order 3" in await call(*python("place_order.py", "nobody"))
        await worker.wait_for("to ada@example.com: thank you for order 1 (attempt 1)")
        await worker.wait_for("send_confirmation gave up on event")
        await eventually(lambda: connection.fetchval("SELECT count(*) = 1 FROM pgbus.dead"))
        assert_shown(await call(*pgbus("dead", "list")))
        assert "send_confirmation" in await call(*pgbus("status"))
        await eventually(lambda: connection.fetchval("SELECT count(*) = 2 FROM counted_orders"))
        await eventually(lambda: connection.fetchval("SELECT count(*) = 6 FROM pgbus.attempts"))
        newest, _, older = (await call(*pgbus("events", "orders.**"))).partition("\n#")
        assert_shown(newest)
        assert "changed-my-mind" not in older
        audit, uncounted = (block.text for block in blocks(TUTORIAL, "sql") if not block.file)
        attempts = await connection.fetch(audit)
        assert len(attempts) == 6
        assert_shown("\n".join(" | ".join(str(value or "") for value in row) for row in attempts))
        assert await connection.fetch(uncounted) == []
        assert "retried 1 dead letter" in await call(*pgbus("dead", "retry", "--all", "--yes"))
        await eventually(lambda: connection.fetchval("SELECT count(*) >= 5 FROM pgbus.attempts WHERE error <> ''"))


def assert_shown(output: str) -> None:
    """Each line of the output is on the page, but for its numbers, ids, times, padding and the worker's name."""
    lines = {outline(line) for line in TUTORIAL.read_text(encoding="utf-8").splitlines() if line.startswith("    ")}
    missing = [line for line in output.splitlines() if line.strip() and outline(line) not in lines]
    assert missing == []


async def test_the_tests_of_the_testing_page_pass(server: DatabaseServer, tmp_path: Path) -> None:
    write_files(TESTING, tmp_path)
    for name in ("bus.py", "tables.sql"):
        (tmp_path / name).write_text((QUICKSTART / name).read_text())
    command = python("-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *plugin_options())
    environ = {"PGBUS_TEST_DSN": server.dsn, "PYTHONPATH": str(ROOT)}
    async with run(*command, dsn=None, cwd=tmp_path, environ=environ) as tests:
        assert await tests.wait() == 0, tests.output
    assert "7 passed" in tests.output


def plugin_options() -> list[str]:
    """An environment that was installed before the plugin was declared does not know it yet."""
    known = {entry_point.name for entry_point in entry_points(group="pytest11")}
    return [] if "pgbus" in known else ["-p", "pytest_pgbus"]
