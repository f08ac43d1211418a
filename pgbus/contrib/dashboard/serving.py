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
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    with listening:
        server.run(sockets=[listening])
