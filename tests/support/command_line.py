"""What commands print, as tests read it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import rich_click as click
from click.testing import Result

from pgbus.cli.program import COMMANDS, load

NOWHERE = "postgresql://adam:s3cret@127.0.0.1:1/nothing"


def json_lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def words(text: str) -> str:
    return " ".join(text.split())


SHARED_OPTIONS = ("--json", "--limit", "--since", "--until", "--topic", "--key", "--error", "--listener")


def leaf_commands() -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its words, in alphabetical order."""
    for name in sorted(COMMANDS):
        one = load(name)
        if not isinstance(one, click.Group) or one.invoke_without_command:
            yield name, one
        if isinstance(one, click.Group):
            for sub in sorted(one.commands):
                yield f"{name} {sub}", one.commands[sub]


def options_of(one: click.Command) -> dict[str, click.Option]:
    return {name: option for option in one.params if isinstance(option, click.Option) for name in option.opts}


def option_table() -> str:
    """The table of the reference: the commands, and which of the shared options each takes."""
    lines = [f"| command | {' | '.join(f'`{name}`' for name in SHARED_OPTIONS)} |", "|---" * 9 + "|"]
    for name, one in leaf_commands():
        taken = options_of(one)
        if any(option in taken for option in SHARED_OPTIONS):
            lines.append(f"| `{name}` | {' | '.join('yes' if option in taken else '' for option in SHARED_OPTIONS)} |")
    return "\n".join(line.replace("|  |", "| |").replace("|  |", "| |") for line in lines)
