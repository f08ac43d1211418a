"""Turns an error into one line on stderr and an exit code; imported only when there is an error."""

from __future__ import annotations

from pgbus.cli.exits import FAILED, LOST, REMOTE, SCHEMA, TIMEOUT, UNREACHABLE, UNSERVED, USAGE
from pgbus.cli.streams import explain_loss, flush_streams, reason_of
from pgbus.database.faults import (
    ClientError,
    InsufficientPrivilege,
    InternalError,
    LinkFailed,
    OperatorIntervention,
    QueryCancelled,
    ServerError,
    SyntaxOrAccess,
)
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


def explain(error: BaseException) -> tuple[str, int] | None:
    """Return the message for an error, which may be empty, and the exit code; None for a bug of pgbus."""
    match error:
        case BaseExceptionGroup(exceptions=(first, *_)):
            return explain(first)
        case PgbusError():
            return str(error), _code(error)
        case ServerError() | ClientError():
            return _explain_refusal(error)
        case BrokenPipeError():  # of our output: for a broken connection the driver has its own error
            return "", FAILED
        case OSError(filename=None) if lost := flush_streams():
            return explain_loss(lost), FAILED
        case ConnectionError() | TimeoutError():
            return f"the connection was lost: {reason_of(error)}", UNREACHABLE
        case OSError():
            return f"{error.filename}: {reason_of(error)}" if error.filename else reason_of(error), FAILED
        case UnicodeDecodeError():
            return f"the input is not {error.encoding}: {error.reason} at byte {error.start}", USAGE
        case _:
            return None


def _explain_refusal(error: ServerError | ClientError) -> tuple[str, int] | None:
    """Return the same for an error of the server or the driver; a statement that is wrong in itself is a bug of
    pgbus.
    """
    match error:
        case InsufficientPrivilege():
            return f"{error}: connect as a user with that right, or let the owner grant it", FAILED
        case QueryCancelled():
            return f"the database refused: {error}", FAILED
        case LinkFailed() | OperatorIntervention():
            return f"the connection was lost: {reason_of(error)}", UNREACHABLE
        case SyntaxOrAccess() | InternalError() | ClientError():
            return None
        case _:
            return f"the database refused: {error}", FAILED


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
