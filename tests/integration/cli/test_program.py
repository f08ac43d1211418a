"""The program as such: versions, errors, exit codes, and what the reference says of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pgbus import lightbus
from pgbus.cli import exits
from pgbus.cli.program import COMMANDS, load
from pgbus.cli.program import pgbus as command
from pgbus.config import Config
from tests.integration.conftest import Invoke
from tests.support import ROOT
from tests.support.command_line import (
    CHANGE_OPTIONS,
    NOWHERE,
    OPERATIONS,
    SHARED_OPTIONS,
    leaf_commands,
    option_table,
    options_of,
    words,
)
from tests.support.programs import run_program

REFERENCE = ROOT / "docs" / "reference"


# ------------------------------------------------------------------------------------------------- the program as such


def test_the_program_shows_its_version(tmp_path: Path) -> None:
    done = run_program("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"pgbus {version('pgbus')}\n", "")


def test_a_database_that_does_not_answer_is_one_line_and_exit_code_4(tmp_path: Path) -> None:
    done = run_program("status", cwd=tmp_path, environ={"PGBUS_DSN": NOWHERE})
    assert done.returncode == 4
    assert done.stdout == ""
    assert re.fullmatch(r"pgbus: cannot connect to postgresql://adam:\*\*\*@127\.0\.0\.1:1/nothing: .+\n", done.stderr)


def test_a_database_that_was_never_upgraded_is_one_line_and_exit_code_3(empty_database: str) -> None:
    for arguments in ("status", "events", "dead list", "db check", "publish a 1"):
        result = CliRunner().invoke(command, arguments.split(), env={"PGBUS_DSN": empty_database})
        assert (result.exit_code, result.stdout) == (exits.SCHEMA, ""), arguments
        assert re.fullmatch(r"pgbus: .*run `pgbus db upgrade`\n", result.stderr), arguments


def test_a_wrong_setting_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "pgbus.toml").write_text("leese = 1")
    done = run_program("status", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "pgbus: pgbus.toml: there is no setting 'leese'; did you mean 'lease'?\n",
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing",),
        ("status", "--nothing"),
        ("events", "--since", "soon"),
        ("events", "--since", "in 2h"),
        ("events", "--until", "99999999w"),
        ("publish", "a.b", "{}", "--deliver-at", "2h ago"),
        ("publish", "a.b", "{}", "--deliver-at", "99999999w"),
        ("events", "--where", "x"),
        ("events", "a..b"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(command, arguments, env={"PGBUS_DSN": NOWHERE})
    assert (result.exit_code, result.stdout) == (exits.USAGE, "")


def test_wrong_usage_is_the_exit_code_of_the_program(tmp_path: Path) -> None:
    assert run_program("nothing", cwd=tmp_path).returncode == 2


def test_a_pipe_gets_no_escape_codes(tmp_path: Path, database: str) -> None:
    for arguments in (("status",), ("--help",), ("events", "--nothing")):
        done = run_program(*arguments, cwd=tmp_path, environ={"PGBUS_DSN": database})
        assert "\x1b" not in done.stdout + done.stderr


def every_command_of_the_program() -> list[tuple[str, click.Command]]:
    return [(name, load(name)) for name in COMMANDS]


def test_the_help_tells_of_each_command_what_it_tells_itself() -> None:
    for name, one in every_command_of_the_program():
        assert (one.help or "").split("\n\n")[0].replace("\n", " ") == COMMANDS[name]


def test_every_command_has_help() -> None:
    for name, one in every_command_of_the_program():
        for arguments in [[name], *([name, sub] for sub in getattr(one, "commands", {}))]:
            result = CliRunner().invoke(command, [*arguments, "--help"])
            assert result.exit_code == 0
            assert "Usage: " in result.output


def every_command(group: click.Group = command, path: str = "pgbus") -> Iterator[tuple[str, click.Command]]:
    for name, one in every_command_of_the_program() if group is command else group.commands.items():
        yield f"{path} {name}", one
        if isinstance(one, click.Group):
            yield from every_command(one, f"{path} {name}")


def test_the_reference_names_every_command_and_option() -> None:
    text = (REFERENCE / "cli.md").read_text()
    for path, one in every_command():
        assert f"`{path}" in text, path
        for parameter in one.params:
            if isinstance(parameter, click.Option) and parameter.name != "help":
                assert any(f"`{name}" in text for name in parameter.opts), f"{path} {parameter.opts}"


def test_the_reference_says_which_options_each_command_takes() -> None:
    text = (REFERENCE / "cli.md").read_text()
    shown = text.partition("<!-- options -->\n")[2].partition("\n<!-- end of options -->")[0]
    assert shown == option_table()


def test_every_command_that_makes_an_operation_takes_the_same_options() -> None:
    taken = {name: [option for option in CHANGE_OPTIONS if option in options_of(one)] for name, one in leaf_commands()}
    assert {name: options for name, options in taken.items() if options} == {
        **{name: list(CHANGE_OPTIONS) for name in OPERATIONS},
        "dashboard": ["--person"],  # of what is changed there
        "db downgrade": ["--yes"],  # it may delete the record
        "operations cancel": ["--reason", "--person"],  # what was named
        "operations continue": ["--reason", "--person"],
    }


# Commands whose results are not rows, and so not JSON objects one per line.
WITHOUT_JSON = {
    "call": "prints the result of the procedure, which is JSON",
    "config schema": "prints a JSON Schema",
    "dashboard": "serves pages until it is stopped",
    "db inbox": "prints SQL",
    "db sql": "prints SQL",
    "demo": "prints a report for people",
    "dev": "runs until it is stopped",
    "grafana": "prints a dashboard, or rules",
    "relay": "runs until it is stopped, and logs",
    "run": "runs until it is stopped, and logs; --log-format json",
    "schema asyncapi": "prints a JSON document",
    "schema dump": "prints JSON documents",
    "schema eventcatalog": "writes pages",
    "schema stubs": "writes Python",
    "shell": "is a prompt",
}


def test_every_command_with_results_takes_json() -> None:
    without = {name for name, one in leaf_commands() if "--json" not in options_of(one)}
    assert without == WITHOUT_JSON.keys()


def test_an_option_means_the_same_in_every_command() -> None:
    found: dict[str, dict[str, str]] = {}
    for name, one in leaf_commands():
        for spelled, option in options_of(one).items():
            if spelled in SHARED_OPTIONS and (name, spelled) not in OTHER_MEANINGS:
                found.setdefault(spelled, {})[name] = (
                    "flag" if option.is_flag else f"{option.type.name} {option.metavar} {option.multiple}"
                )
    assert {spelled: set(kinds.values()) for spelled, kinds in found.items() if len(set(kinds.values())) > 1} == {}


OTHER_MEANINGS = {
    ("run", "--listener"): "one of several to run",
}


def test_the_reference_names_every_exit_code() -> None:
    text = (REFERENCE / "cli.md").read_text()
    shown = CliRunner().invoke(command, ["--help"]).stdout
    for code in (exits.FAILED, exits.USAGE, exits.SCHEMA, exits.UNREACHABLE, exits.BUG):
        assert f"\n| {code} | " in text
        assert re.search(rf"\b{code} \w", shown)


def test_the_reference_names_every_setting_and_its_default() -> None:
    text = (REFERENCE / "configuration.md").read_text()
    for setting in Config().describe():
        found = re.search(rf"^\| `{setting.name}` \| (.+?) \|", text, re.MULTILINE)
        assert found, setting.name
        if isinstance(setting.value, bool):
            assert found[1] == str(setting.value).lower(), setting.name
        elif isinstance(setting.value, int | float):
            assert found[1].split()[0] == f"{setting.value:.12g}", setting.name


# ----------------------------------------------------------------------------------------------------------------- dev


async def test_an_unknown_command_is_told_with_the_names_that_are_close_to_it(invoke: Invoke) -> None:
    for name, said in (("event", "Did you mean 'events'?"), ("nonsense", "No such command 'nonsense'.")):
        result = await invoke(name)
        assert (result.exit_code, result.stdout) == (exits.USAGE, "")
        assert said in words(result.stderr)


async def test_a_command_of_lightbus_that_has_another_name_here_is_told_it(invoke: Invoke) -> None:
    for name, here in lightbus.COMMANDS.items():
        result = await invoke(name, "--out", "schema.json")
        assert (result.exit_code, result.stderr) == (exits.USAGE, f"pgbus: no such command {name!r}; write `{here}`\n")
