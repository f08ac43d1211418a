"""Errors of publishing, and of schemas."""

from __future__ import annotations

from collections.abc import Sequence

from pgbus.errors.root import InvalidEventError, PgbusError, ValidationError


class InvalidEventArguments(InvalidEventError, ValidationError):
    """Fire the event with the arguments that its declaration names; `field` is the argument that is wrong."""

    def __init__(self, field: str, reason: str, *, place: str = "") -> None:
        super().__init__(f"{field}{place}", reason)
        self.field = field
        self.path = f"{field}{place}"


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


class NoTransactionWarning(RuntimeWarning):
    """Publish in the transaction that writes your rows, before it ends; the message says what became of the event."""


class SchemaNotFound(PgbusError, LookupError):
    """Start a worker of the service that declares it, or load a file; `pgbus schema dump` shows what is known."""


class InvalidSchema(PgbusError, ValueError):
    """Give a file that `pgbus schema dump` wrote, or a directory of them."""


class RemoteSchemasNotLoaded(PgbusError):
    """Await `bus.schema.ensure_loaded_from_bus()` first: here, reading them from the database would block the loop."""
