"""The HTTP status of a call without a response, for all web frameworks."""

from __future__ import annotations

from http import HTTPStatus

from pgbus.errors import CallTimeout, NoAnswer, NoWorkerAvailable


def status_of(error: NoAnswer) -> HTTPStatus:
    """503 where no worker serves the procedure, 504 where none answered in time, 502 where the worker was lost."""
    match error:
        case NoWorkerAvailable():
            return HTTPStatus.SERVICE_UNAVAILABLE
        case CallTimeout():
            return HTTPStatus.GATEWAY_TIMEOUT
        case _:
            return HTTPStatus.BAD_GATEWAY
