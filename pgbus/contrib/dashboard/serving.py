"""Serving the dashboard on a port of its own: `pgbus dashboard`."""

from __future__ import annotations

from collections.abc import Callable, Collection

import uvicorn

from pgbus.config import Config
from pgbus.contrib.dashboard.access import Allow
from pgbus.contrib.dashboard.app import Dashboard
from pgbus.contrib.listening import listen


def serve(
    config: Config, *, host: str, port: int, allow: Allow, hidden: Collection[str], announce: Callable[[str], object]
) -> None:
    """Serve until SIGTERM or Ctrl-C; `announce` gets the address once it can be opened.

    Raises ConfigurationError if the address cannot be had.
    """
    listening, address = listen(host, port)
    app = Dashboard(config, allow=allow, hidden=hidden)
    announce(address)
    # The streams of open pages have no end of their own.
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1))
    with listening:
        server.run(sockets=[listening])
