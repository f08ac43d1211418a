"""The API-class face of the bus: events and procedures declared in classes, reached as `bus.api.name`."""

from pgbus.api.bound import BoundBus
from pgbus.api.client import BusClient, OnError
from pgbus.api.declarations import Api, ApiOptions, Event, Parameter, WildcardParameter
from pgbus.api.path import BusPath
from pgbus.api.registry import ApiRegistry

__all__ = [
    "Api",
    "ApiOptions",
    "ApiRegistry",
    "BoundBus",
    "BusClient",
    "BusPath",
    "Event",
    "OnError",
    "Parameter",
    "WildcardParameter",
]
