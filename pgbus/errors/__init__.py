"""Every error that pgbus raises on purpose, in one tree.

PgbusError ├── ConfigurationError           a setting, a listener or an event class is wrong: raised at definition or
start-up │   ├── DuplicateListenerName    two listeners of one process share a name │   ├── DuplicateProcedureName   two
procedures of one process share a name │   ├── InvalidEventListener     a handler that cannot be called with the
arguments of its event │   │   └── NothingToListenFor   a listener of no event at all │   ├── InvalidName
an empty or private name of an event or a procedure │   ├── MisconfiguredApiOptions  an Api class without a proper
`class Meta` │   ├── InvalidApiEventConfiguration   an Event or a Parameter that makes no sense │   ├──
InvalidApiRegistryEntry  something that cannot be registered as an API │   ├── InvalidSchedule          an interval, a
cron expression or a task that makes no sense │   ├── DuplicateScheduleName    two schedules of one process share a name
│   ├── UnsupportedUse           a feature that there is not │   └── UnexpectedConfigurationFormat   a configuration
file that is not a table of settings ├── InvalidEventError            an event was refused before it reached the
database; `field` says which part │   ├── InvalidEventArguments    fired with an argument too many, too few, or of the
wrong type (a ValidationError) │   └── DeformError              something cannot be put into JSON ├── ValidationError
what was sent or received is not of the declared type; each kind of it stands elsewhere ├── FailedToImportBusModule
the module that holds the bus is not there, or raised while it was imported │   └── NoBusFoundInBusModule    it has no
bus of that name ├── UnknownApi                   an event was fired whose API this process has not registered ├──
EventNotFound                the API has no such event ├── SchemaNotFound               no schema is known of that API,
event or procedure ├── InvalidSchema                a file or a stored document holds no schemas ├──
RemoteSchemasNotLoaded       stored schemas were asked for where loading them would block an event loop ├──
InvalidParameters            positional arguments, where names are needed ├── TransactionAbortedError      the caller's
transaction had failed already, so nothing can be published in it ├── ConnectionUnusableError      the connection given
as `using` is closed, or of a kind that pgbus does not know ├── PublishTimeout               the database took too long
for a blocking `fire` (also a TimeoutError) ├── CannotBlockHere              a blocking call on the thread of a running
event loop ├── SchemaVersionError           the database was never upgraded, or is older or newer than the code ├──
DatabaseUnreachableError     the database does not answer, or does not let us in │   └── OutcomeUnknownError      the
connection was lost before the database said whether it had done what was asked for ├── PrivilegeError               the
database user may not do what was asked for ├── NotRegisteredError           an operator named a listener or a schedule
that there is not ├── InUseError                   not done while a worker runs the listener, or a schedule runs, rests
or is declared ├── UnhandledEventError          an event that a listener cannot decode or accept: dead-lettered at once
├── HandlerTimeoutError          a handler ran past its `timeout` ├── HandlerTransactionError      a transactional
handler ended the transaction that it was given ├── CallError                    a call did not bring a result;
`procedure` says of what │   ├── RemoteError              the procedure raised; `remote_type` and `remote_traceback` say
what and where │   ├── NoAnswer                 no answer came, for whatever reason │   │   ├── CallTimeout
none came within the timeout (also a TimeoutError) │   │   ├── WorkerLost           the worker that ran the call died or
stopped before it answered │   │   └── NoWorkerAvailable    no live worker serves the procedure │   ├── InvalidArguments
the arguments cannot be sent, or do not fit the procedure (a ValidationError) │   │   └── UnsendableArguments  something
in them cannot be put into JSON (a DeformError) │   ├── InvalidResult            the result cannot be sent, or is not
what was promised or asked for (a ValidationError) │   └── CallCancelled            the call was called off: by someone
else, or because the bus was closed ├── BrokerUnreachableError
a relay's broker has not acknowledged an event ├── MessageRefusedError          a relay's broker refuses an event
└── EmbeddedPostgresError        no server binaries were found, or the server did
not start

Outside of the tree: `Retry` and `Dead`, with which a handler ends its attempt; `SuddenDeathException`, for tests; and
`NoTransactionWarning`.
"""

from pgbus.errors.calls import (
    CallCancelled,
    CallError,
    CallTimeout,
    InvalidArguments,
    InvalidResult,
    NoAnswer,
    NoWorkerAvailable,
    RemoteError,
    SuddenDeathException,
    UnsendableArguments,
    WorkerLost,
)
from pgbus.errors.declarations import (
    DuplicateListenerName,
    DuplicateProcedureName,
    DuplicateScheduleName,
    FailedToImportBusModule,
    InvalidApiEventConfiguration,
    InvalidApiRegistryEntry,
    InvalidEventListener,
    InvalidName,
    InvalidSchedule,
    MisconfiguredApiOptions,
    NoBusFoundInBusModule,
    NothingToListenFor,
    UnexpectedConfigurationFormat,
    UnsupportedUse,
)
from pgbus.errors.handlers import (
    Dead,
    HandlerTimeoutError,
    HandlerTransactionError,
    Retry,
    UnhandledEventError,
)
from pgbus.errors.operating import (
    BrokerUnreachableError,
    DatabaseUnreachableError,
    EmbeddedPostgresError,
    InUseError,
    MessageRefusedError,
    NotRegisteredError,
    OperationNotFound,
    OutcomeUnknownError,
    PrivilegeError,
    SchemaVersionError,
)
from pgbus.errors.publishing import (
    CannotBlockHere,
    ConnectionUnusableError,
    EventNotFound,
    InvalidEventArguments,
    InvalidParameters,
    InvalidSchema,
    NoTransactionWarning,
    PublishTimeout,
    RemoteSchemasNotLoaded,
    SchemaNotFound,
    TransactionAbortedError,
    UnknownApi,
)
from pgbus.errors.root import (
    ConfigurationError,
    DeformError,
    InvalidEventError,
    PgbusError,
    ValidationError,
)

__all__ = [
    "BrokerUnreachableError",
    "CallCancelled",
    "CallError",
    "CallTimeout",
    "CannotBlockHere",
    "ConfigurationError",
    "ConnectionUnusableError",
    "DatabaseUnreachableError",
    "Dead",
    "DeformError",
    "DuplicateListenerName",
    "DuplicateProcedureName",
    "DuplicateScheduleName",
    "EmbeddedPostgresError",
    "EventNotFound",
    "FailedToImportBusModule",
    "HandlerTimeoutError",
    "HandlerTransactionError",
    "InUseError",
    "InvalidApiEventConfiguration",
    "InvalidApiRegistryEntry",
    "InvalidArguments",
    "InvalidEventArguments",
    "InvalidEventError",
    "InvalidEventListener",
    "InvalidName",
    "InvalidParameters",
    "InvalidResult",
    "InvalidSchedule",
    "InvalidSchema",
    "MessageRefusedError",
    "MisconfiguredApiOptions",
    "NoAnswer",
    "NoBusFoundInBusModule",
    "NoTransactionWarning",
    "NoWorkerAvailable",
    "NotRegisteredError",
    "NothingToListenFor",
    "OperationNotFound",
    "OutcomeUnknownError",
    "PgbusError",
    "PrivilegeError",
    "PublishTimeout",
    "RemoteError",
    "RemoteSchemasNotLoaded",
    "Retry",
    "SchemaNotFound",
    "SchemaVersionError",
    "SuddenDeathException",
    "TransactionAbortedError",
    "UnexpectedConfigurationFormat",
    "UnhandledEventError",
    "UnknownApi",
    "UnsendableArguments",
    "UnsupportedUse",
    "ValidationError",
    "WorkerLost",
]

for _name in __all__:  # where people import them from; tracebacks, and the errors of other processes, name them so
    globals()[_name].__module__ = __name__
