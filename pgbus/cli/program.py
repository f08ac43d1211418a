"""The group that holds all commands, and `main`, which runs it as a program."""

from __future__ import annotations

import importlib
import sys
import traceback
from typing import NoReturn

import rich_click as click

from pgbus.cli.exits import BUG, FAILED
from pgbus.cli.global_options import database_options
from pgbus.cli.group import PgbusGroup, tell
from pgbus.cli.streams import explain_loss, flush_streams, open_streams, say

# Each command's help in `pgbus --help`, a copy of its own: a command's module is imported only when it is run.
COMMANDS = {
    "run": "Run a bus's listeners, procedures and tasks until SIGTERM, Ctrl-C or SIGHUP.",
    "shell": "Open a Python prompt with `bus` and the names of pgbus; Tab completes events and procedures.",
    "demo": "Run a shop on an embedded PostgreSQL: orders, failures, retries, a dead letter, and a check of it all.",
    "dev": "Start an embedded PostgreSQL, print its DSN for a shell, and stop it on Ctrl-C, SIGTERM or SIGHUP.",
    "db": "Upgrade, downgrade and check the bus's schema in the database.",
    "publish": "Publish an event under TOPIC with the payload JSON (`-` reads stdin), and print its id.",
    "republish": "Publish the event ID again with the payload JSON (`-` reads stdin), and print the new event's id.",
    "call": "Call API.PROCEDURE on a worker that serves it, and print its result as JSON.",
    "relay": "Write events to another system, or publish its messages as events, until SIGTERM or Ctrl-C.",
    "status": "Show the state of the bus: outbox, log, listeners, schedules, workers, leader.",
    "top": "Show the work of the bus, live: rates, lag, p95 and failures of each listener, and what runs now.",
    "dashboard": "Serve a dashboard of the bus, and print its address: flow, listeners, events, dead letters, doctor.",
    "doctor": "Examine the bus and its database: each fault with its evidence and the command that repairs it.",
    "grafana": "Print a dashboard for Grafana as JSON (on Prometheus, or on the views in SQL), or alert rules as YAML.",
    "inspect": "Show the history of APIs, the newest first: events, or with --calls calls. All filters must match.",
    "events": "Show events of the log, the newest first, with each listener's attempts.",
    "dead": "List, group, show, retry or discard dead letters: events that a listener gave up on.",
    "listeners": "List listeners; pause, resume, reset, replay or remove them.",
    "schedules": "List schedules and their runs; pause, resume, run or remove them.",
    "operations": "List and show the changes that people have made; continue or cancel one.",
    "schema": "Dump, check and compare the schemas of events and procedures, and write stubs.",
    "config": "Show each setting and its source; passwords are hidden. With --json also its meaning.",
}


class MainGroup(PgbusGroup):
    """A group that has its commands' names and help texts, and imports a command when it is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        """Return the names in alphabetical order."""
        return sorted(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Import and return the command with which the arguments begin."""
        if args and args[0] in COMMANDS:
            load(args[0])
        elif args and not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            import difflib  # only a wrong name needs it

            # click knows only the names of the commands that were imported.
            if close := difflib.get_close_matches(args[0], COMMANDS):
                ctx.fail(f"No such command {args[0]!r}. Did you mean {' or '.join(map(repr, close))}?")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command; if it is not imported, a stand-in with its name and help only."""
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            return click.RichCommand(name=cmd_name, help=COMMANDS[cmd_name])
        return super().get_command(ctx, cmd_name)


def load(name: str) -> click.Command:
    """Import and return the command: a function in a module, both with the command's name."""
    if name not in pgbus.commands:
        pgbus.add_command(getattr(importlib.import_module(f"pgbus.cli.{name}"), name))
    return pgbus.commands[name]


def _show_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # half of what this command costs

        click.echo(f"pgbus {version('pgbus')}")
        context.exit()


@click.group(cls=MainGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@database_options
def pgbus() -> None:
    """An event bus in the PostgreSQL that you already have.

    Settings come from options, then PGBUS_* variables, then a file (--config, or else pgbus.toml, pgbus.yaml or
    [tool.pgbus]), then defaults; `pgbus config` shows them.

    Exit codes: 0 done, 1 failed or not found, 2 usage or configuration, 3 the database's schema does not fit,
    4 the database cannot be reached, 70 a bug; `pgbus call` has more.
    """


def main() -> NoReturn:
    """Run the program. A traceback on stderr and exit code 70 mean a bug."""
    open_streams()
    code = _run()
    if (lost := flush_streams()) and not code:
        tell(explain_loss(lost))
        code = FAILED
    sys.exit(code)


def _run() -> int:
    try:
        return int(pgbus(standalone_mode=True) or 0)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except Exception as error:  # raised while parsing the options, or while writing the help
        from pgbus.cli.complaints import explain

        if (ending := explain(error)) is None:
            say("".join(traceback.format_exception(error)).rstrip())
            return BUG
        tell(ending[0])
        return ending[1]
