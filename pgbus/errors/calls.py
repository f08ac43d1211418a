"""Errors that a call raises instead of returning a result."""

from __future__ import annotations

from pgbus.errors.root import DeformError, PgbusError, ValidationError


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


class CallCancelled(CallError):
    """Call again; someone took the call back, or closed the bus while it was under way."""


class SuddenDeathException(Exception):
    """Raised by a procedure in a test, it is to the caller as if the worker had died: WorkerLost."""
