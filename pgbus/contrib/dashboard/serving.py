"""Serving the dashboard on a port of its own: `pgbus dashboard`."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection

import uvicorn

from pgbus.config import Config
from pgbus.contrib.dashboard.access import by_token
from pgbus.contrib.dashboard.app import Dashboard
from pgbus.errors import ConfigurationError


def serve(
    config: Config, *, host: str, port: int, token: str, hidden: Collection[str], announce: Callable[[str], object]
) -> None:
    """Serve until SIGTERM or Ctrl-C; `announce` gets the address once it can be opened.

    Raises ConfigurationError if the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigurationError(f"cannot serve on {host}, port {port}: {error.strerror or error}") from error
    app = Dashboard(config, allow=by_token(token), hidden=hidden)
    shown = f"[{host}]" if ":" in host else host
    announce(f"http://{shown}:{listening.getsockname()[1]}")
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    with listening:
        server.run(sockets=[listening])
