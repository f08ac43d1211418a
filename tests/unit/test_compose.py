"""docker-compose.yml without a Docker: what it says must agree with what is in the tree."""

import tomllib
from importlib.util import find_spec
from typing import TypedDict

import pytest
import yaml
from click.testing import CliRunner

from tests.support import ROOT


class Service(TypedDict, total=False):
    command: list[str]
    depends_on: dict[str, dict[str, str]]
    healthcheck: dict[str, object]
    build: dict[str, str]


@pytest.fixture(scope="module")
def services() -> dict[str, Service]:
    loaded: dict[str, dict[str, Service]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded["services"]


def test_commands_of_pgbus_are_accepted_by_the_command_line(services: dict[str, Service]) -> None:
    from pgbus.cli.program import pgbus

    commands = [service["command"][1:] for service in services.values() if service.get("command", [""])[0] == "pgbus"]
    assert commands
    for arguments in commands:
        answer = CliRunner().invoke(pgbus, [*arguments, "--help"])
        assert answer.exit_code == 0, answer.output


def test_modules_that_it_runs_exist(services: dict[str, Service]) -> None:
    commands = [service["command"] for service in services.values() if "command" in service]
    modules = [command[2] for command in commands if command[:2] in (["pgbus", "run"], ["python", "-m"])]
    assert modules
    assert [module for module in modules if find_spec(module) is None] == []


def test_everything_waits_for_the_schema_and_the_schema_for_postgres(services: dict[str, Service]) -> None:
    assert "healthcheck" in services["postgres"]
    assert services["upgrade"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in ("worker", "shop"):
        assert services[name]["depends_on"] == {"upgrade": {"condition": "service_completed_successfully"}}


def test_the_image_copies_files_that_exist(services: dict[str, Service]) -> None:
    lines = services["worker"]["build"]["dockerfile_inline"].splitlines()
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]]
    assert copied
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_the_image_copies_all_that_the_wheel_is_made_of(services: dict[str, Service]) -> None:
    lines = services["worker"]["build"]["dockerfile_inline"].splitlines()
    copied = {name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    [readme] = project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["fragments"]
    assert {*wheel, "pyproject.toml", readme["path"], *project["project"]["license-files"]} <= copied
