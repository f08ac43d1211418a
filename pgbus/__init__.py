"""pgbus: an event bus whose broker is the PostgreSQL that your service already has.

A name is imported when it is first asked for (PEP 562): `pgbus --help` and a module that declares events alone do not
wait for the driver.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgbus.api import Api, ApiOptions, BoundBus, BusClient, BusPath, Event, OnError, Parameter, WildcardParameter
    from pgbus.bus import Bus, create
    from pgbus.bus_module import get_bus, import_bus_module
    from pgbus.causality import Cause, caused_by, current_cause
    from pgbus.config import ApiConfig, Config
    from pgbus.errors import (
        CallCancelled,
        CallError,
        CallTimeout,
        CannotBlockHere,
        ConfigurationError,
        ConnectionUnusableError,
        DatabaseUnreachableError,
        Dead,
        DeformError,
        DuplicateListenerName,
        DuplicateProcedureName,
        DuplicateScheduleName,
        EventNotFound,
        FailedToImportBusModule,
        HandlerTimeoutError,
        HandlerTransactionError,
        InvalidApiEventConfiguration,
        InvalidApiRegistryEntry,
        InvalidArguments,
        InvalidEventArguments,
        InvalidEventError,
        InvalidEventListener,
        InvalidName,
        InvalidParameters,
        InvalidResult,
        InvalidSchedule,
        InvalidSchema,
        MisconfiguredApiOptions,
        NoAnswer,
        NoBusFoundInBusModule,
        NothingToListenFor,
        NoTransactionWarning,
        NoWorkerAvailable,
        OutcomeUnknownError,
        PgbusError,
        PublishTimeout,
        RemoteError,
        RemoteSchemasNotLoaded,
        Retry,
        SchemaNotFound,
        SchemaVersionError,
        SuddenDeathException,
        TransactionAbortedError,
        UnexpectedConfigurationFormat,
        UnhandledEventError,
        UnknownApi,
        UnsendableArguments,
        UnsupportedUse,
        ValidationError,
        WorkerLost,
    )
    from pgbus.events import event
    from pgbus.handlers.about import about
    from pgbus.handlers.contexts import CallContext, Context, TaskContext
    from pgbus.handlers.outcomes import RetryPolicy
    from pgbus.lightbus import LightbusException, LightbusTimeout, LightbusWorkerError
    from pgbus.messages import EventMessage, ResultMessage, RpcMessage
    from pgbus.plugins import Plugin

__all__ = [
    "Api",
    "ApiConfig",
    "ApiOptions",
    "BoundBus",
    "Bus",
    "BusClient",
    "BusPath",
    "CallCancelled",
    "CallContext",
    "CallError",
    "CallTimeout",
    "CannotBlockHere",
    "Cause",
    "Config",
    "ConfigurationError",
    "ConnectionUnusableError",
    "Context",
    "DatabaseUnreachableError",
    "Dead",
    "DeformError",
    "DuplicateListenerName",
    "DuplicateProcedureName",
    "DuplicateScheduleName",
    "Event",
    "EventMessage",
    "EventNotFound",
    "FailedToImportBusModule",
    "HandlerTimeoutError",
    "HandlerTransactionError",
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
    "LightbusException",
    "LightbusTimeout",
    "LightbusWorkerError",
    "MisconfiguredApiOptions",
    "NoAnswer",
    "NoBusFoundInBusModule",
    "NoTransactionWarning",
    "NoWorkerAvailable",
    "NothingToListenFor",
    "OnError",
    "OutcomeUnknownError",
    "Parameter",
    "PgbusError",
    "Plugin",
    "PublishTimeout",
    "RemoteError",
    "RemoteSchemasNotLoaded",
    "ResultMessage",
    "Retry",
    "RetryPolicy",
    "RpcMessage",
    "SchemaNotFound",
    "SchemaVersionError",
    "SuddenDeathException",
    "TaskContext",
    "TransactionAbortedError",
    "UnexpectedConfigurationFormat",
    "UnhandledEventError",
    "UnknownApi",
    "UnsendableArguments",
    "UnsupportedUse",
    "ValidationError",
    "WildcardParameter",
    "WorkerLost",
    "about",
    "caused_by",
    "create",
    "current_cause",
    "event",
    "get_bus",
    "import_bus_module",
]

# Where the names are from that are not errors.
_HOMES = {
    "pgbus.api": (
        "Api",
        "ApiOptions",
        "BoundBus",
        "BusClient",
        "BusPath",
        "Event",
        "OnError",
        "Parameter",
        "WildcardParameter",
    ),
    "pgbus.bus": (
        "Bus",
        "create",
    ),
    "pgbus.bus_module": (
        "get_bus",
        "import_bus_module",
    ),
    "pgbus.causality": (
        "Cause",
        "caused_by",
        "current_cause",
    ),
    "pgbus.config": (
        "ApiConfig",
        "Config",
    ),
    "pgbus.events": ("event",),
    "pgbus.handlers.about": ("about",),
    "pgbus.handlers.contexts": (
        "CallContext",
        "Context",
        "TaskContext",
    ),
    "pgbus.lightbus": ("LightbusException", "LightbusTimeout", "LightbusWorkerError"),
    "pgbus.messages": (
        "EventMessage",
        "ResultMessage",
        "RpcMessage",
    ),
    "pgbus.handlers.outcomes": ("RetryPolicy",),
    "pgbus.plugins": ("Plugin",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

if not TYPE_CHECKING:  # a type checker is to know the names above and no others

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOME_OF.get(name, "pgbus.errors")), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
