"""Requests are causes: what a web application publishes and calls while it answers one is caused by it.

Plain ASGI and WSGI: nothing here imports a framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from pgbus.causality import Cause, caused_by

Environ: TypeAlias = dict[str, Any]
WsgiApp: TypeAlias = Callable[[Environ, Any], Iterable[bytes]]

_PREFIX = "HTTP_"


def cause_of_scope(scope: Mapping[str, Any]) -> Cause:
    """The cause that a request or websocket is, by the headers of its ASGI scope: see `Cause.of_request`."""
    return Cause.of_request({name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]})


def cause_of_environ(environ: Mapping[str, Any]) -> Cause:
    """The cause that a request is, by the headers in its WSGI environment: see `Cause.of_request`."""
    given = {name: value for name, value in environ.items() if name.startswith(_PREFIX)}
    return Cause.of_request(
        {name.removeprefix(_PREFIX).replace("_", "-").lower(): value for name, value in given.items()}
    )


class CauseMiddleware:
    """WSGI middleware: `app = CauseMiddleware(app)`. What a request publishes and calls is caused by it.

    So is what a response publishes while it is streamed.
    """

    def __init__(self, app: WsgiApp) -> None:
        self._app = app

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        """Have the application answer one request, which is the cause of what that publishes."""
        cause = cause_of_environ(environ)
        with caused_by(cause):
            body = self._app(environ, start_response)
        # A server sends a file that it has wrapped by itself, and knows it by its class.
        wrapper = environ.get("wsgi.file_wrapper")
        is_file = isinstance(wrapper, type) and isinstance(body, wrapper)
        return body if is_file or isinstance(body, list | tuple) else _Streamed(body, cause)


class _Streamed:
    """A body that the server asks for piece by piece, between which it may be at other requests."""

    def __init__(self, body: Iterable[bytes], cause: Cause) -> None:
        self._body = body
        self._cause = cause

    def __iter__(self) -> Iterator[bytes]:
        with caused_by(self._cause):
            pieces = iter(self._body)
        while True:
            with caused_by(self._cause):
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    def close(self) -> None:
        """Close the body, as a server does in the end."""
        if close := getattr(self._body, "close", None):
            with caused_by(self._cause):
                close()
