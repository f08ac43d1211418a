"""Exit codes, and how a command fails: with one line on stderr and one of them."""

from __future__ import annotations

from typing import NoReturn

import rich_click as click
from click import get_current_context

from pgbus import lightbus
from pgbus.cli.printable import on_one_line
from pgbus.cli.streams import say

FAILED = 1
USAGE = 2
SCHEMA = 3
UNREACHABLE = 4
REMOTE = 5  # these four are kinds of a call that brought no result
UNSERVED = 6
TIMEOUT = 7
LOST = 8
BUG = 70  # EX_SOFTWARE; 1 is what Python itself would use, and scripts should be able to tell


class PgbusGroup(click.RichGroup):
    """A group whose commands fail with one line on stderr."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; one of Lightbus that has another name here ends the program and says which."""
        if cmd_name in lightbus.COMMANDS:
            fail(f"no such command {cmd_name!r}; write `{lightbus.COMMANDS[cmd_name]}`", code=USAGE)
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; an error that is not a bug of ours ends the program here."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            from pgbus.cli.complaints import explain

            if (ending := explain(error)) is None:
                raise
            fail(ending[0], code=ending[1])


def fail(message: str, *, code: int = FAILED) -> NoReturn:
    """End the program with a line on stderr."""
    tell(message)
    get_current_context().exit(code)


def tell(message: str) -> None:
    """A line on stderr, if there is anything to tell."""
    if message:
        say(f"pgbus: {on_one_line(' '.join(message.split()))}")
