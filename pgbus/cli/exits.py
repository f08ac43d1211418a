"""Exit codes, and how an error becomes one line on stderr and one of them."""

from __future__ import annotations

from typing import NoReturn

import asyncpg
import rich_click as click
from click import get_current_context

from pgbus.cli.printable import on_one_line
from pgbus.cli.streams import flush_streams, say
from pgbus.errors import (
    CallTimeout,
    ConfigurationError,
    DatabaseUnreachableError,
    InvalidArguments,
    NoWorkerAvailable,
    PgbusError,
    RemoteError,
    SchemaVersionError,
    WorkerLost,
)

FAILED = 1
USAGE = 2
SCHEMA = 3
UNREACHABLE = 4
REMOTE = 5  # these four are kinds of a call that brought no result
UNSERVED = 6
TIMEOUT = 7
LOST = 8
BUG = 70  # EX_SOFTWARE; 1 is what Python itself would use, and scripts should be able to tell


OF_LIGHTBUS = {
    "dumpschema": "pgbus schema dump",
    "dumpconfigschema": "pgbus config schema",
    "version": "pgbus --version",
}


class PgbusGroup(click.RichGroup):
    """A group whose commands fail with one line on stderr."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; one of Lightbus that has another name here ends the program and says which."""
        if cmd_name in OF_LIGHTBUS:
            fail(f"no such command {cmd_name!r}; write `{OF_LIGHTBUS[cmd_name]}`", code=USAGE)
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; an error that is not a bug of ours ends the program here."""
        try:
            return super().invoke(ctx)
        except Exception as error:
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


def explain(error: BaseException) -> tuple[str, int] | None:
    """What to tell of an error, if anything, and the exit code; None for a bug of ours."""
    match error:
        case BaseExceptionGroup(exceptions=(first, *_)):
            return explain(first)
        case PgbusError():
            return str(error), _code(error)
        case asyncpg.PostgresError() | asyncpg.InterfaceError():
            return _explain_refusal(error)
        case BrokenPipeError():  # our output's: that of a connection is told by the driver
            return "", FAILED
        case OSError(filename=None) if lost := flush_streams():
            return explain_loss(lost)
        case ConnectionError() | TimeoutError():
            return f"the connection was lost: {_reason(error)}", UNREACHABLE
        case OSError():
            return f"{error.filename}: {_reason(error)}" if error.filename else _reason(error), FAILED
        case UnicodeDecodeError():
            return f"the input is not {error.encoding}: {error.reason} at byte {error.start}", USAGE
        case _:
            return None


def explain_loss(error: OSError) -> tuple[str, int]:
    """The same where stdout cannot be written; a pipe's reader that has seen enough needs no telling."""
    return ("" if isinstance(error, BrokenPipeError) else f"cannot write to stdout: {_reason(error)}"), FAILED


def _explain_refusal(error: asyncpg.PostgresError | asyncpg.InterfaceError) -> tuple[str, int] | None:
    """The same for what the server or its driver answered: a statement that is wrong in itself is a bug of ours."""
    match error:
        case asyncpg.InsufficientPrivilegeError():
            return f"{error}: connect as a user who may, or have the owner grant it", FAILED
        case asyncpg.QueryCanceledError():
            return f"the database refused: {error}", FAILED
        case asyncpg.PostgresConnectionError() | asyncpg.OperatorInterventionError():
            return f"the connection was lost: {_reason(error)}", UNREACHABLE
        case asyncpg.SyntaxOrAccessError() | asyncpg.InternalServerError() | asyncpg.InterfaceError():
            return None
        case _:
            return f"the database refused: {error}", FAILED


def _reason(error: BaseException) -> str:
    """The error in words, without its number."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _code(error: PgbusError) -> int:
    match error:
        case SchemaVersionError():
            return SCHEMA
        case DatabaseUnreachableError():
            return UNREACHABLE
        case ConfigurationError() | InvalidArguments():
            return USAGE
        case RemoteError():
            return REMOTE
        case NoWorkerAvailable():
            return UNSERVED
        case CallTimeout():
            return TIMEOUT
        case WorkerLost():
            return LOST
        case _:
            return FAILED
