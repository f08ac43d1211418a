"""`internal_state`: workers tell, as events of the API `internal.state`, that they start, live and stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import socket
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from pgbus.api import Api, BusClient, Event, Parameter
from pgbus.config import Config
from pgbus.plugins.base import Plugin
from pgbus.plugins.metrics import MetricsApi

logger = logging.getLogger("pgbus")

_STATE = (
    Parameter("service_name", str),
    Parameter("process_name", str),
    Parameter("metrics_enabled", bool),
    Parameter("api_names", list[str]),
    Parameter("listening_for", list[str]),
    Parameter("timestamp", datetime),
    Parameter("ping_enabled", bool),
    Parameter("ping_interval", float),
    Parameter("hostname", str),
    Parameter("pid", int),
    Parameter("max_memory_use", int),
)


class StateApi(Api):
    """Events about a worker's state. `max_memory_use` is in KiB, `ping_interval` in seconds."""

    worker_started = Event(parameters=_STATE)
    worker_ping = Event(parameters=_STATE)
    worker_stopped = Event(
        parameters=(Parameter("service_name", str), Parameter("process_name", str), Parameter("timestamp", datetime))
    )

    class Meta:  # noqa: D106 - as every API has
        name = "internal.state"
        internal = True


class StatePlugin(Plugin):
    """Fires `worker_started`, `worker_ping` every `ping_interval` seconds, and `worker_stopped`."""

    def __init__(self, *, config: Config, ping_enabled: bool = True, ping_interval: float = 60.0) -> None:
        self.apis: Sequence[Api] = (StateApi(),)
        self._config = config
        self._ping_enabled = ping_enabled
        self._ping_interval = ping_interval
        self._telling: asyncio.Task[None] | None = None

    @classmethod
    def from_config(
        cls,
        *,
        config: Config,
        ping_enabled: bool = True,
        ping_interval: Annotated[float, msgspec.Meta(ge=0.1, le=86_400)] = 60.0,
    ) -> StatePlugin:
        """Options: whether to ping, and every how many seconds."""
        return cls(config=config, ping_enabled=ping_enabled, ping_interval=ping_interval)

    async def before_worker_start(self, client: BusClient) -> None:
        """Begin to tell once all that is to be called on start was called: it may declare APIs and listeners."""
        client.before_worker_start(self._begin)

    async def after_worker_stopped(self, client: BusClient) -> None:
        """Tell that the worker has stopped."""
        if self._telling is None:
            return
        self._telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._telling
        self._telling = None
        await self._fire(client, "worker_stopped", {})

    async def _begin(self, client: BusClient) -> None:
        self._telling = asyncio.create_task(self._tell(client), name="pgbus state")

    async def _tell(self, client: BusClient) -> None:
        await self._fire(client, "worker_started", self._state(client))
        while self._ping_enabled:
            await asyncio.sleep(self._ping_interval)
            await self._fire(client, "worker_ping", self._state(client))

    async def _fire(self, client: BusClient, name: str, state: dict[str, object]) -> None:
        who = {
            "service_name": self._config.service_name,
            "process_name": self._config.process_name,
            "timestamp": datetime.now(UTC),
        }
        try:
            await client.fire_event(StateApi.meta.name, name, {**who, **state})
        except Exception as error:  # the next ping has the state again
            logger.warning("could not publish the state of the worker: %s", error)

    def _state(self, client: BusClient) -> dict[str, object]:
        return {
            "metrics_enabled": MetricsApi.meta.name in client.api_registry,
            "api_names": [api.meta.name for api in client.api_registry.public()],
            "listening_for": client.topics,
            "ping_enabled": self._ping_enabled,
            "ping_interval": self._ping_interval,
            "hostname": socket.gethostname(),
            "pid": os.getpid(),
            "max_memory_use": _max_memory_use(),
        }


def _max_memory_use() -> int:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used // 1024 if sys.platform == "darwin" else used  # macOS counts bytes
