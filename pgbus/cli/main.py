"""The group that holds all commands, and `main`, which runs it as a program."""

from __future__ import annotations

import sys
import traceback
from importlib.metadata import version
from typing import NoReturn

import rich_click as click

from pgbus.cli.call import call
from pgbus.cli.config import config
from pgbus.cli.db import db
from pgbus.cli.dead import dead
from pgbus.cli.dev import dev
from pgbus.cli.events import events
from pgbus.cli.exits import BUG, PgbusGroup, explain, explain_loss, tell
from pgbus.cli.inspect import inspect
from pgbus.cli.listeners import listeners
from pgbus.cli.options import database_options
from pgbus.cli.publish import publish
from pgbus.cli.run import run
from pgbus.cli.schedules import schedules
from pgbus.cli.schema import schema
from pgbus.cli.shell import shell
from pgbus.cli.status import status
from pgbus.cli.streams import flush_streams, open_streams, say


@click.group(cls=PgbusGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("pgbus"), message="pgbus %(version)s")
@database_options
def pgbus() -> None:
    """An event bus in the PostgreSQL that you already have.

    Settings come from options, then PGBUS_* variables, then a file (--config, or else pgbus.toml, pgbus.yaml or
    [tool.pgbus]), then defaults; `pgbus config` shows them.

    Exit codes: 0 done, 1 failed or not found, 2 usage or configuration, 3 the database's schema does not fit,
    4 the database cannot be reached, 70 a bug; `pgbus call` has more.
    """


for command in (
    run, shell, dev, db, publish, call, status, inspect, events, dead, listeners, schedules, schema, config,
):  # fmt: skip
    pgbus.add_command(command)


def main() -> NoReturn:
    """Run the program. A traceback on stderr and exit code 70 mean a bug."""
    open_streams()
    code = _run()
    if (lost := flush_streams()) and not code:
        message, code = explain_loss(lost)
        tell(message)
    sys.exit(code)


def _run() -> int:
    try:
        return int(pgbus(standalone_mode=True) or 0)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except Exception as error:  # of parsing the options, or of writing the help
        if (ending := explain(error)) is None:
            say("".join(traceback.format_exception(error)).rstrip())
            return BUG
        tell(ending[0])
        return ending[1]
