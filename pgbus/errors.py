"""Every error that pgbus raises on purpose, in one tree.

PgbusError
├── ConfigurationError           a setting, a listener or an event class is wrong: raised at definition or start-up
│   └── DuplicateListenerName    two listeners of one process share a name
├── InvalidEventError            an event was refused before it reached the database; `field` says which part
├── TransactionAbortedError      the caller's transaction had failed already, so nothing can be published in it
├── ConnectionUnusableError      the connection given as `using` is closed, or of a kind that pgbus does not know
├── CannotBlockHere              a blocking call on the thread of a running event loop
├── SchemaVersionError           the database was never upgraded, or is older or newer than the code
├── DatabaseUnreachableError     the database does not answer, or does not let us in
├── PrivilegeError               the database user may not do what was asked for
├── UnknownListenerError         an operator named a listener that is not registered
├── ListenerRunningError         a listener is not removed while a worker runs it
├── UnhandledEventError          an event that a listener cannot decode or accept: dead-lettered at once
├── HandlerTimeoutError          a handler ran past its `timeout`
└── EmbeddedPostgresError        no server binaries were found, or the server did not start
"""

from __future__ import annotations

import math
from collections.abc import Sequence


class PgbusError(Exception):
    """Base of every error that pgbus raises on purpose."""


class ConfigurationError(PgbusError):
    """Change the setting, listener or event class that the message names; nothing was started or written."""


class DuplicateListenerName(ConfigurationError):
    """Give one of the two listeners another `name`: a listener_name is one listener's identity."""

    def __init__(self, listener_name: str) -> None:
        super().__init__(
            f"two listeners are named {listener_name!r}; a listener_name is the identity under which events are "
            "kept for a listener, so give one of them another name"
        )
        self.listener_name = listener_name


class InvalidEventError(PgbusError, ValueError):
    """Correct the part of the event named by `field`; the caller's transaction was not touched."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class TransactionAbortedError(PgbusError):
    """Roll the transaction back and run it again: a statement before this one failed in it."""


class ConnectionUnusableError(PgbusError):
    """Pass an open connection or session of a supported driver as `using`, or none at all."""


class CannotBlockHere(PgbusError):
    """Await the async form instead: this thread runs an event loop, and blocking it would stop everything on it."""


class SchemaVersionError(PgbusError):
    """Run `pgbus db upgrade`, or deploy the version of pgbus that the database was upgraded with."""


class DatabaseUnreachableError(PgbusError):
    """Start the database, or correct the DSN: host, port, user, password, database."""

    def __init__(self, database: str, reason: str) -> None:
        super().__init__(f"cannot connect to {database}: {reason}")


class PrivilegeError(PgbusError):
    """Connect as a user who may do it, or have the privilege granted: `migrate.grant_roles` makes roles for it."""


class UnknownListenerError(PgbusError):
    """Name a registered listener: `pgbus listeners list` shows them; `close` has the names that look like this one."""

    def __init__(self, listener_name: str, close: Sequence[str]) -> None:
        hint = f"did you mean {', '.join(map(repr, close))}?" if close else "`pgbus listeners list` shows what there is"
        super().__init__(f"there is no listener {listener_name!r}; {hint}")
        self.listener_name = listener_name
        self.close = tuple(close)


class ListenerRunningError(PgbusError):
    """Stop the workers that run the listener, or deploy them without it; then remove it."""

    def __init__(self, listener_name: str, workers: Sequence[str]) -> None:
        super().__init__(
            f"{listener_name!r} is run by {', '.join(workers)}; stop or change them first, "
            "as they would only register it again"
        )
        self.listener_name = listener_name
        self.workers = tuple(workers)


class UnhandledEventError(PgbusError):
    """The event does not fit the listener: fix the handler, then retry the dead letter."""


class HandlerTimeoutError(PgbusError):
    """Raise the listener's `timeout`, in seconds, or make the handler quicker."""


class EmbeddedPostgresError(PgbusError):
    """Install `pgbus[embedded]`, point PGBUS_PG_BINDIR at PostgreSQL's binaries, or use a server of your own."""


class Retry(Exception):
    """Raised by a handler to have the event again, `after` seconds from now (default: as the retry policy says)."""

    def __init__(self, reason: str = "the handler asked for a retry", *, after: float | None = None) -> None:
        super().__init__(reason)
        # Refused in the handler: there it is a failed attempt like any other.
        if after is not None and not math.isfinite(after):
            raise ValueError(f"Retry: after is a number of seconds, not {after}")
        self.reason = str(reason)
        self.after = after


class Dead(Exception):
    """Raised by a handler to give the event up at once; `reason` is kept with the dead letter."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = str(reason)
