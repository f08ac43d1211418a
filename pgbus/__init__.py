"""pgbus: an event bus whose broker is the PostgreSQL that your service already has."""

from pgbus.bus import Bus, create
from pgbus.codec import event
from pgbus.config import Config
from pgbus.errors import (
    CannotBlockHere,
    ConfigurationError,
    ConnectionUnusableError,
    DatabaseUnreachableError,
    Dead,
    DuplicateListenerName,
    HandlerTimeoutError,
    InvalidEventError,
    PgbusError,
    Retry,
    SchemaVersionError,
    TransactionAbortedError,
    UnhandledEventError,
)
from pgbus.executor import Context
from pgbus.messages import EventMessage
from pgbus.outcomes import RetryPolicy

__all__ = [
    "Bus",
    "CannotBlockHere",
    "Config",
    "ConfigurationError",
    "ConnectionUnusableError",
    "Context",
    "DatabaseUnreachableError",
    "Dead",
    "DuplicateListenerName",
    "EventMessage",
    "HandlerTimeoutError",
    "InvalidEventError",
    "PgbusError",
    "Retry",
    "RetryPolicy",
    "SchemaVersionError",
    "TransactionAbortedError",
    "UnhandledEventError",
    "create",
    "event",
]
