"""What is loaded, and when: importing pgbus and asking its command line for help costs little."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import pgbus
from pgbus.database import sql

ROOT = Path(pgbus.__file__).parent

# Each is loaded by what needs it, and not before.
HEAVY = {"alembic", "sqlalchemy", "psycopg", "rich", "structlog", "jsonschema_rs", "IPython", "watchfiles", "pydantic"}


def loaded_by(code: str) -> set[str]:
    """The modules that a new interpreter has loaded after it ran this code."""
    program = f"import sys, contextlib, io\n{code}\nprint(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(ast.literal_eval(done.stdout.splitlines()[-1]))


def test_importing_pgbus_loads_no_driver_and_no_part_of_pgbus() -> None:
    loaded = loaded_by("import pgbus")
    assert not loaded & {*HEAVY, "asyncpg", "msgspec"}
    assert {name for name in loaded if name.startswith("pgbus.")} == set()


# What costs much to load, and what only some programs, or only a failure, need.
RARE = {"importlib.metadata", "importlib.resources", "email.message", "zipfile", "tempfile", "shutil", "sysconfig"}
RARE |= {"difflib", "tomllib", "zoneinfo", "cronsim", "click", "rich_click"}
# Of pgbus: what workers, migrations and comparisons of schemas need.
ENGINE = {"pgbus.worker", "pgbus.leader", "pgbus.admin", "pgbus.database.migrate", "pgbus.schema.compare"}
ENGINE |= {"pgbus.database.statements.sequencer", "pgbus.database.statements.deliveries", "pgbus.schema.stubs"}
# Without a configuration file in the working directory.
MAKE_A_BUS = "import os\nos.chdir('/')\nimport pgbus\nbus = pgbus.create('postgresql://localhost/x')"
# The modules of pgbus, and of others, that are loaded beyond those of asyncpg.
MOST_OF_PGBUS, MOST_OF_OTHERS = 130, 44


@pytest.fixture(scope="module")
def loaded_by_a_bus() -> set[str]:
    return loaded_by(f"{MAKE_A_BUS}\nfrom pgbus.database.sql import load\nassert load.cache_info().currsize == 0")


def test_making_a_bus_loads_nothing_that_only_some_programs_need(loaded_by_a_bus: set[str]) -> None:
    assert not loaded_by_a_bus & {*HEAVY, *RARE, *ENGINE}


def test_making_a_bus_loads_few_modules_besides_those_of_its_driver(loaded_by_a_bus: set[str]) -> None:
    more = loaded_by_a_bus - loaded_by("import asyncpg")
    ours = {name for name in more if name.startswith("pgbus")}
    assert len(ours) <= MOST_OF_PGBUS, sorted(ours)
    assert len(more - ours) <= MOST_OF_OTHERS, sorted(more - ours)


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_the_command_line_loads_no_command_to_tell_about_itself(option: str) -> None:
    loaded = loaded_by(
        f"sys.argv = ['pgbus', {option!r}]\nfrom pgbus.cli import main\nwith contextlib.suppress(SystemExit): main()"
    )
    assert not loaded & ({*HEAVY, "asyncpg", "msgspec"} - {"rich"})
    assert "pgbus.bus" not in loaded


def test_logs_are_set_up_without_the_machinery_of_the_command_line() -> None:
    assert not loaded_by("from pgbus.cli.logs import configure_logging") & {"click", "rich_click", "asyncpg"}


def test_each_name_of_the_package_is_there_and_stays_the_same() -> None:
    for name in pgbus.__all__:
        assert getattr(pgbus, name) is getattr(pgbus, name)
    assert set(pgbus.__all__) <= set(dir(pgbus))
    with pytest.raises(AttributeError, match="has no attribute 'Buss'"):
        getattr(pgbus, "Buss")  # noqa: B009 - mypy knows that it is not there


def test_each_module_can_be_imported_first() -> None:
    for path in sorted(ROOT.glob("*/__init__.py")):
        importlib.import_module(f"pgbus.{path.parent.name}")


# ----------------------------------------------------------------------------------------------------------- contracts

CONTRACTS = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
    "contracts"
]
# Where what is forbidden elsewhere may be imported.
OPEN = {"asyncpg": {"contrib", "database", "demo"}, "opentelemetry": {"contrib"}}


def parts() -> set[str]:
    """The packages and modules of pgbus."""
    found = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    return found | {path.stem for path in ROOT.glob("*.py") if path.stem != "__init__"}


@pytest.mark.parametrize("module", OPEN)
def test_no_part_of_pgbus_is_left_out_of_a_contract_on_what_is_forbidden(module: str) -> None:
    [contract] = [one for one in CONTRACTS if module in one.get("forbidden_modules", ())]
    assert {f"pgbus.{part}" for part in parts() - OPEN[module]} == set(contract["source_modules"])


def test_every_package_says_which_of_its_modules_imports_which() -> None:
    contracts = {container: one for one in CONTRACTS if one["type"] == "layers" for container in one["containers"]}
    packages = {part for part in parts() if (ROOT / part).is_dir()} - {"contrib"}
    assert {f"pgbus.{package}" for package in packages} <= set(contracts)
    assert all(one["exhaustive"] for one in contracts.values())
    assert not any("ignore_imports" in one for one in CONTRACTS)


def test_the_page_on_architecture_has_the_layers_of_the_contract() -> None:
    page = (ROOT.parent / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    table = page.split("| layer | holds |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", table, re.MULTILINE)
    [contract] = [one for one in CONTRACTS if one.get("containers") == ["pgbus"]]
    assert [re.findall(r"\w+", row) for row in rows] == [re.findall(r"\w+", line) for line in contract["layers"]]


def test_only_the_database_package_calls_a_statement_by_its_name() -> None:
    called = re.compile(rf'[\[(]\s*"(?:{"|".join(sql.load())})"')
    found = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        if path.relative_to(ROOT).parts[0] != "database" and called.search(path.read_text(encoding="utf-8"))
    }
    assert found == set()


@pytest.mark.parametrize("command", ["status", "top", "events", "dead", "listeners", "schedules"])
def test_a_command_that_looks_at_the_bus_loads_no_engine_and_no_schemas(command: str) -> None:
    loaded = loaded_by(f"import pgbus.cli.program\npgbus.cli.program.load({command!r})")
    assert not loaded & {"pgbus.schema", "pgbus.registry", "pgbus.worker", "pgbus.bus", "alembic", "sqlalchemy"}
