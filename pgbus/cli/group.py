"""How a command fails: with one line on stderr, and an exit code that says of what kind it is."""

from __future__ import annotations

from typing import NoReturn

import rich_click as click
from click import get_current_context

from pgbus import lightbus
from pgbus.cli.exits import FAILED, USAGE
from pgbus.cli.printable import on_one_line
from pgbus.cli.streams import say


class PgbusGroup(click.RichGroup):
    """A group whose commands fail with one line on stderr."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; one of Lightbus that has another name here ends the program and says which."""
        if cmd_name in lightbus.COMMANDS:
            fail(f"no such command {cmd_name!r}; write `{lightbus.COMMANDS[cmd_name]}`", code=USAGE)
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; an error that is not a bug of pgbus ends the program here."""
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
    """Print a line on stderr, unless the message is empty."""
    if message:
        say(f"pgbus: {on_one_line(' '.join(message.split()))}")
