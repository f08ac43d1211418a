"""Errors in a setting, a listener, a procedure, a schedule, an API or the module of a bus."""

from __future__ import annotations

from pgbus.errors.root import ConfigurationError, PgbusError


class DuplicateListenerName(ConfigurationError):
    """Give one of the two listeners another `name`: a listener_name is one listener's identity."""

    def __init__(self, listener_name: str) -> None:
        super().__init__(
            f"two listeners are named {listener_name!r}; a listener_name is the identity under which events are "
            "kept for a listener, so give one of them another name"
        )
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


class FailedToImportBusModule(PgbusError):
    """Name a module that can be imported; if it raised, that is the `__cause__`."""


class NoBusFoundInBusModule(FailedToImportBusModule):
    """Assign `bus = pgbus.create()` in the module, or name the bus that it has: MODULE:BUS."""
