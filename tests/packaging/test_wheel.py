"""The wheel, as a user gets it: in an environment of its own, far from this tree."""

import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.examples.documents import write_files
from tests.examples.programs import run
from tests.support import ROOT
from tests.support.sharing import once_a_run

# Building and installing takes seconds when pip has its cache, and more when it has to fetch. It is done once a run.
pytestmark = pytest.mark.timeout(300)


def call(*command: str | Path, cwd: Path) -> str:
    answer = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, f"{command}\n{answer.stdout}{answer.stderr}"
    return answer.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def build(directory: Path) -> None:
        call(sys.executable, "-m", "build", "--wheel", "--outdir", directory, ROOT, cwd=directory)

    (built,) = once_a_run(tmp_path_factory, "dist", build).glob("pgbus-*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment in which nothing but the wheel and what it needs is installed; our pip does it."""

    def install(directory: Path) -> None:
        venv.create(directory / "venv")
        python = directory / "venv" / "bin" / "python"
        pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
        call(*pip, "install", "--quiet", "--no-compile", wheel, cwd=directory)

    return once_a_run(tmp_path_factory, "a path with spaces", install) / "venv" / "bin"


def test_the_wheel_holds_the_package_its_types_its_sql_and_its_migrations(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    files = (path for path in (ROOT / "pgbus").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert {f"pgbus/{path.relative_to(ROOT / 'pgbus')}" for path in files} - names == set()
    assert {"pgbus/py.typed", "pgbus/database/sql/deliveries.sql", "pgbus/migrations/versions/0001_spine.py"} <= names
    assert "pgbus/migrations/sql/0001_spine_upgrade.sql" in names
    (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    assert {name.split("/")[0] for name in names} == {"pgbus", "pytest_pgbus.py", metadata.split("/")[0]}


def test_the_page_of_pypi_has_no_link_or_picture_that_needs_the_files_beside_the_readme(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        shown = archive.read(metadata).decode()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "# pgbus" in shown
    urls = dict(re.findall(r"^Project-URL: (\w+), (\S+)$", shown, re.MULTILINE))
    [version] = re.findall(r"^Version: (\S+)$", shown, re.MULTILINE)
    files = f"{urls['Source']}/blob/v{version}"
    raw = f"{urls['Source']}/v{version}".replace("github", "raw.githubusercontent")
    targets = re.findall(r"(?:\]\(|src=\"|srcset=\")([^)\"]+)", shown)
    assert len(targets) == len(re.findall(r"(?:\]\(|src=\"|srcset=\")([^)\"]+)", readme)) > 30
    for target in targets:
        assert target.startswith(f"{raw}/docs/images/" if target.endswith((".svg", ".png")) else f"{files}/"), target
        assert (ROOT / target.removeprefix(files).removeprefix(raw).lstrip("/").partition("#")[0]).exists(), target


async def test_an_installed_pgbus_upgrades_a_database_and_runs_the_readmes_example(
    installed: Path, empty_database: str, tmp_path: Path
) -> None:
    write_files(ROOT / "README.md", tmp_path)
    pgbus, python = str(installed / "pgbus"), str(installed / "python")
    where = call(python, "-c", "import pgbus; print(pgbus.__file__)", cwd=tmp_path)
    assert str(installed.parent) in where
    async with run(pgbus, "db", "upgrade", dsn=empty_database, cwd=tmp_path) as upgrade:
        assert await upgrade.wait() == 0, upgrade.output
    async with run(pgbus, "run", "shop", dsn=empty_database, cwd=tmp_path) as worker:
        await worker.wait_for("send_confirmation is new")
        async with run(python, "shop.py", dsn=empty_database, cwd=tmp_path) as shop:
            assert await shop.wait() == 0, shop.output
        await worker.wait_for("to ada@example.com: thank you for order 1\n")


async def test_an_installed_pgbus_runs_the_demo_in_an_empty_directory(
    installed: Path, empty_database: str, tmp_path: Path
) -> None:
    demo = ("demo", "--existing-database", "--orders", "20")
    async with run(str(installed / "pgbus"), *demo, dsn=empty_database, cwd=tmp_path) as shop:
        assert await shop.wait() == 0, shop.output
    assert "0 of 2 rolled-back orders are in the log" in shop.output
