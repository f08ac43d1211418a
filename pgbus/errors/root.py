"""The base of all errors, and the ones that several parts of pgbus raise."""

from __future__ import annotations


class PgbusError(Exception):
    """Base of every error that pgbus raises on purpose."""


class ConfigurationError(PgbusError):
    """Change the setting, listener or event class that the message names; nothing was started or written."""


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


class DeformError(InvalidEventError):
    """Send a value that has a JSON form, or give its class a `__to_bus__`; nothing was sent."""
