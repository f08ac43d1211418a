"""Serving the dashboard on a port of its own: `pgbus dashboard`."""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection
from contextlib import suppress

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
    # Once it has stopped, uvicorn raises the signal again. SIGTERM would kill the process then, and Ctrl-C count as an
    # error: both end it with code 0, as they end the other commands.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with listening, suppress(KeyboardInterrupt):
        server.run(sockets=[listening])
