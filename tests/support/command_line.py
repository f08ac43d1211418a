"""What commands print, as tests read it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import rich_click as click
from click.testing import Result

from pgbus.cli.program import COMMANDS, load

NOWHERE = "postgresql://adam:s3cret@127.0.0.1:1/nothing"


def json_lines(result: Result, code: int = 0) -> list[dict[str, Any]]:
    assert result.exit_code == code, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def words(text: str) -> str:
    return " ".join(text.split())


EVENT = "00000000-0000-0000-0000-000000000001"
DEAD_HEADINGS = "ID LISTENER POSITION TOPIC KEY ATTEMPTS ERROR"
CHANGE_OPTIONS = ("--dry-run", "--yes", "--reason", "--person")
# The commands that make an operation: arguments for each, and how its preview begins.
OPERATIONS: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "db adopt": ((), ["matches 1 database"]),
    "dead discard": (("2",), ["matches 1 dead letter", DEAD_HEADINGS]),
    "dead give-up": (("--listener", "mailer"), ["matches 1 waiting event", DEAD_HEADINGS]),
    "dead retry": (("--all",), ["matches 5 dead letters", DEAD_HEADINGS]),
    "dead retry-now": (("--all",), ["matches 1 waiting event", DEAD_HEADINGS]),
    "listeners pause": (("mailer", "stock"), ["matches 2 listeners", "LISTENER", "mailer", "stock"]),
    "listeners remove": (("mailer",), ["matches 1 listener", "LISTENER", "mailer"]),
    "listeners replay": (
        ("mailer", "--from", "beginning"), ["matches 6 events; 5 of them:", "POSITION TOPIC KEY AT"],
    ),
    "listeners reset": (("mailer", "--to", "now"), ["matches 1 listener", "LISTENER TO", "mailer now"]),
    "listeners resume": (("stock",), ["matches 1 listener", "LISTENER", "stock"]),
    "republish": ((EVENT, '{"n": 7}'), ["matches 1 event", "EVENT PAYLOAD", f'{EVENT} {{"n":7}}']),
    "schedules pause": (("nightly",), ["matches 1 schedule", "SCHEDULE", "nightly"]),
    "schedules remove": (("nightly",), ["matches 1 schedule", "SCHEDULE", "nightly"]),
    "schedules resume": (("hourly",), ["matches 1 schedule", "SCHEDULE", "hourly"]),
    "schedules run": (("nightly", "hourly"), ["matches 2 schedules", "SCHEDULE", "nightly", "hourly"]),
}  # fmt: skip
SHARED_OPTIONS = (
    "--json", "--limit", "--since", "--until", "--topic", "--key", "--error", "--listener", *CHANGE_OPTIONS,
)  # fmt: skip


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
    headings = ["command", *(f"`{name}`" for name in SHARED_OPTIONS)]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for name, one in leaf_commands():
        taken = options_of(one)
        if any(option in taken for option in SHARED_OPTIONS):
            lines.append(f"| `{name}` | {' | '.join('yes' if option in taken else '' for option in SHARED_OPTIONS)} |")
    return "\n".join(line.replace("|  |", "| |").replace("|  |", "| |") for line in lines)
