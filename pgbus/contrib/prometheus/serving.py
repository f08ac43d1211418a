"""Serving the app on a port of its own, in the event loop of the worker: `pgbus run --http`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn

from pgbus.bus import Bus
from pgbus.contrib.listening import listen
from pgbus.contrib.prometheus.app import MonitoringApp

logger = logging.getLogger("pgbus")


class _Server(uvicorn.Server):
    """Leaves signals to `pgbus run`: while its worker drains, probes are still answered."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the handlers of signals as they are within the block."""
        yield


@asynccontextmanager
async def serving(bus: Bus, host: str, port: int) -> AsyncIterator[int]:
    """Serve the app of a worker's bus within the block; yields the port, of which 0 means a free one.

    Raises ConfigurationError if the address cannot be had.
    """
    listening, address = listen(host, port)
    app = MonitoringApp(bus, has_worker=True)
    config = uvicorn.Config(app, lifespan="off", log_config=None, log_level="warning", access_log=False)
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listening]), name="pgbus http")
    logger.info("serving /metrics, /livez, /readyz and /wake on %s", address)
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        server.force_exit = True  # a scraper that keeps its connection must not hold up the end
        await task
        listening.close()
