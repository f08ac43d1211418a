"""pgbus: an event bus whose broker is the PostgreSQL that your service already has."""

from pgbus.bus import Bus, create
from pgbus.codec import event
from pgbus.config import Config
from pgbus.errors import (
    CallCancelled,
    CallError,
    CallTimeout,
    CannotBlockHere,
    ConfigurationError,
    ConnectionUnusableError,
    DatabaseUnreachableError,
    Dead,
    DuplicateListenerName,
    DuplicateProcedureName,
    HandlerTimeoutError,
    InvalidArguments,
    InvalidEventError,
    InvalidResult,
    NoWorkerAvailable,
    PgbusError,
    RemoteError,
    Retry,
    SchemaVersionError,
    TransactionAbortedError,
    UnhandledEventError,
    WorkerLost,
)
from pgbus.executor import Context
from pgbus.messages import EventMessage
from pgbus.outcomes import RetryPolicy

__all__ = [
    "Bus",
    "CallCancelled",
    "CallError",
    "CallTimeout",
    "CannotBlockHere",
    "Config",
    "ConfigurationError",
    "ConnectionUnusableError",
    "Context",
    "DatabaseUnreachableError",
    "Dead",
    "DuplicateListenerName",
    "DuplicateProcedureName",
    "EventMessage",
    "HandlerTimeoutError",
    "InvalidArguments",
    "InvalidEventError",
    "InvalidResult",
    "NoWorkerAvailable",
    "PgbusError",
    "RemoteError",
    "Retry",
    "RetryPolicy",
    "SchemaVersionError",
    "TransactionAbortedError",
    "UnhandledEventError",
    "WorkerLost",
    "create",
    "event",
]
