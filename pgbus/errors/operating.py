"""Errors of the database, and of operators' commands."""

from __future__ import annotations

from collections.abc import Sequence

from pgbus.errors.root import PgbusError


class SchemaVersionError(PgbusError):
    """Run `pgbus db upgrade`, or deploy the version of pgbus that the database was upgraded with."""


class DatabaseUnreachableError(PgbusError):
    """Start the database, or correct the DSN: host, port, user, password, database."""

    def __init__(self, database: str, reason: str) -> None:
        super().__init__(f"cannot connect to {database}: {reason}")


class OutcomeUnknownError(DatabaseUnreachableError):
    """Do it again, a publish under a `dedup_key` if twice would be wrong: it may have been done already."""

    def __init__(self, database: str, reason: str) -> None:
        PgbusError.__init__(
            self,
            f"the connection to {database} was lost ({reason}); whether the event was published, or cancelled, is not "
            "known, so do it again, and publish it under a dedup_key if twice would be wrong",
        )


class PrivilegeError(PgbusError):
    """Connect as a user who may do it, or have the privilege granted: `migrate.grant_roles` makes roles for it."""


class NotRegisteredError(PgbusError):
    """Name a listener or schedule that is registered; `close` has the names that look like this one.

    `pgbus listeners list` and `pgbus schedules list` show all of them.
    """

    def __init__(self, kind: str, name: str, close: Sequence[str]) -> None:
        hint = f"did you mean {', '.join(map(repr, close))}?" if close else f"`pgbus {kind}s list` shows what there is"
        super().__init__(f"there is no {kind} {name!r}; {hint}")
        self.name = name
        self.close = tuple(close)


class InUseError(PgbusError):
    """Stop the workers, wait for the run to end, or resume the schedule, as the message says.

    `name` is the listener or schedule; `workers` are those that run a listener that was to be removed.
    """

    def __init__(self, name: str, reason: str, *, workers: Sequence[str] = ()) -> None:
        super().__init__(f"{name!r} {reason}")
        self.name = name
        self.workers = tuple(workers)


class OperationNotFound(PgbusError):
    """Take an id that `pgbus operations list` shows."""

    def __init__(self, operation_id: int) -> None:
        super().__init__(f"there is no operation {operation_id}; `pgbus operations list` shows what there is")
        self.operation_id = operation_id


class BrokerUnreachableError(PgbusError):
    """Start the broker, or correct its address; the event is written again, and nothing is lost meanwhile."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the other system has not acknowledged the event: {reason}")


class MessageRefusedError(PgbusError):
    """Create the topic, stream or exchange there, or raise its limits; then retry what became a dead letter."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place} refuses the event: {reason}")


class EmbeddedPostgresError(PgbusError):
    """Install `pgbus[embedded]`, point PGBUS_PG_BINDIR at PostgreSQL's binaries, or use a server of your own."""
