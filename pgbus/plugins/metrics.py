"""`internal_metrics`: fires events of the API `internal.metrics` for every event and call."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from pgbus.api import Api, BusClient, Event, Parameter
from pgbus.config import Config
from pgbus.messages import EventMessage, ResultMessage, RpcMessage
from pgbus.plugins.base import Plugin

logger = logging.getLogger("pgbus")

_WHO = (Parameter("service_name", str), Parameter("process_name", str), Parameter("timestamp", datetime))
_EVENT = (
    *_WHO,
    Parameter("event_id", str),
    Parameter("api_name", str),
    Parameter("event_name", str),
    Parameter("kwargs", dict),
)
_CALL = (*_WHO, Parameter("id", str), Parameter("api_name", str), Parameter("procedure_name", str))


class MetricsApi(Api):
    """Events about a process's events and calls; `event_id` and `id` are those of the event and of the call."""

    event_fired = Event(parameters=_EVENT)
    event_received = Event(parameters=_EVENT)
    event_processed = Event(parameters=_EVENT)
    rpc_call_sent = Event(parameters=(*_CALL, Parameter("kwargs", dict)))
    rpc_call_received = Event(parameters=_CALL)
    rpc_response_sent = Event(parameters=(*_CALL, Parameter("result")))
    rpc_response_received = Event(parameters=_CALL)

    class Meta:  # noqa: D106 - as every API has
        name = "internal.metrics"
        internal = True


class MetricsPlugin(Plugin):
    """Fires an event at each step of an event and of a call, except of its own."""

    def __init__(self, *, config: Config) -> None:
        self.apis: Sequence[Api] = (MetricsApi(),)
        self._config = config

    @classmethod
    def from_config(cls, *, config: Config) -> MetricsPlugin:
        """Create the plugin; it has no options."""
        return cls(config=config)

    async def after_event_sent(self, client: BusClient, event_message: EventMessage) -> None:
        """Fire `event_fired` for an event that was published."""
        await self._tell_of_event(client, "event_fired", event_message)

    async def before_event_execution(self, client: BusClient, event_message: EventMessage) -> None:
        """Fire `event_received` for an event that a listener starts to handle."""
        await self._tell_of_event(client, "event_received", event_message)

    async def after_event_execution(self, client: BusClient, event_message: EventMessage) -> None:
        """Fire `event_processed` for an event that a listener has handled."""
        await self._tell_of_event(client, "event_processed", event_message)

    async def before_rpc_call(self, client: BusClient, rpc_message: RpcMessage) -> None:
        """Fire `rpc_call_sent` for a call that is made."""
        await self._tell_of_call(client, "rpc_call_sent", rpc_message, kwargs=rpc_message.kwargs)

    async def before_rpc_execution(self, client: BusClient, rpc_message: RpcMessage) -> None:
        """Fire `rpc_call_received` for a call that a worker has claimed."""
        await self._tell_of_call(client, "rpc_call_received", rpc_message)

    async def after_rpc_execution(
        self, client: BusClient, rpc_message: RpcMessage, result_message: ResultMessage
    ) -> None:
        """Fire `rpc_response_sent` for a call that a worker answers."""
        await self._tell_of_call(client, "rpc_response_sent", rpc_message, result=result_message.result)

    async def after_rpc_call(self, client: BusClient, rpc_message: RpcMessage) -> None:
        """Fire `rpc_response_received` for a call that has ended for the caller."""
        await self._tell_of_call(client, "rpc_response_received", rpc_message)

    async def _tell_of_event(self, client: BusClient, name: str, message: EventMessage) -> None:
        facts = {
            "event_id": message.id,
            "api_name": message.api_name,
            "event_name": message.event_name,
            "kwargs": message.kwargs,
        }
        await self._fire(client, name, facts)

    async def _tell_of_call(self, client: BusClient, name: str, message: RpcMessage, **more: object) -> None:
        facts = {"id": message.id, "api_name": message.api_name, "procedure_name": message.procedure_name, **more}
        await self._fire(client, name, facts)

    async def _fire(self, client: BusClient, name: str, facts: Mapping[str, object]) -> None:
        if facts["api_name"] == MetricsApi.meta.name:  # or else one would lead to the next
            return
        who = {
            "service_name": self._config.service_name,
            "process_name": self._config.process_name,
            "timestamp": datetime.now(UTC),
        }
        try:
            await client.fire_event(MetricsApi.meta.name, name, {**who, **facts})
        except Exception as error:  # what is measured is not to fail for it
            logger.warning("could not fire %s: %s", name, error)
