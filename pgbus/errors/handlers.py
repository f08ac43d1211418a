"""Errors and exceptions that end the attempt of a handler."""

from __future__ import annotations

import math

from pgbus.errors.root import PgbusError


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


class Retry(Exception):
    """Raised by a handler to have the event again, `after` seconds from now (default: as the retry policy says).

    A negative `after` counts as 0. Raises ValueError for one that is infinite or not a number.
    """

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
