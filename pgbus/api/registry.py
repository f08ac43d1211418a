"""The APIs that this process speaks for."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pgbus.api.declarations import Api, Event, event_names, procedures
from pgbus.errors import EventNotFound, InvalidApiRegistryEntry, UnknownApi
from pgbus.topics import split_name

# The methods of a BusPath: no word after the first one of a path can have these names.
PATH_METHODS = frozenset(
    {
        "call", "call_async", "fire", "fire_async", "listen", "listen_async", "parameter_schema", "response_schema",
        "validate_parameters", "validate_response",
    }
)  # fmt: skip

_log = logging.getLogger("pgbus")


class ApiRegistry:
    """The registered APIs of one bus, by name.

    `taken_names` are attributes of the bus: an API whose name begins with one is reached through `bus.client` only.
    """

    def __init__(self, *, taken_names: frozenset[str]) -> None:
        self.taken_names = taken_names
        self._apis: dict[str, Api] = {}

    def add(self, api: Api) -> None:
        """Register an API; raises InvalidApiRegistryEntry."""
        self.check(api)
        name = api.meta.name
        if (first := name.partition(".")[0]) in self.taken_names:
            _log.warning(
                "API %r: `bus.%s` is an attribute of every bus, so reach the API through `bus.client`, as in "
                "`bus.client.fire_event(%r, ...)`", name, first, name,
            )  # fmt: skip
        self._apis[name] = api

    def check(self, api: Api) -> dict[str, Callable[..., Any]]:
        """The API's procedures by name; raises InvalidApiRegistryEntry if it cannot be registered."""
        if isinstance(api, type):
            raise InvalidApiRegistryEntry(f"{api.__qualname__} is a class; register an instance: {api.__qualname__}()")
        if not isinstance(api, Api):
            raise InvalidApiRegistryEntry(f"{api!r} is not an API; derive its class from pgbus.Api")
        if api.meta.name in self._apis:
            raise InvalidApiRegistryEntry(f"an API named {api.meta.name!r} is already registered")
        methods = procedures(api)
        self._refuse_clashes(api, methods)
        return methods

    def get(self, name: str) -> Api:
        """The API of that name; raises UnknownApi."""
        if name not in self._apis:
            raise UnknownApi(name, self.names())
        return self._apis[name]

    def event(self, topic: str) -> Event | None:
        """The event that is fired under `topic`, if its API is registered and has it."""
        api_name, name = split_name(topic)
        try:
            return self._apis[api_name].get_event(name)
        except (KeyError, EventNotFound):
            return None

    def events(self) -> Iterator[tuple[str, Event]]:
        """Every event of the registered APIs, with the topic under which it is fired."""
        for name, api in self._apis.items():
            for event in event_names(api):
                yield f"{name}.{event}", api.get_event(event)

    def declaring(self, topic: str) -> type | None:
        """The class of the API that an event is of, if it is registered."""
        api = self._apis.get(split_name(topic)[0])
        return None if api is None else type(api)

    def names(self) -> list[str]:
        """The names of the registered APIs."""
        return list(self._apis)

    def all(self) -> list[Api]:
        """Return the registered APIs, in the order of registration."""
        return list(self)

    def public(self) -> list[Api]:
        """Those that are meant for other services."""
        return [api for api in self if not api.meta.internal]

    def internal(self) -> list[Api]:
        """Those whose Meta says `internal = True`."""
        return [api for api in self if api.meta.internal]

    def next_words(self, prefix: Sequence[str]) -> list[str]:
        """Return the words that may follow a path: further words of an API's name, events and procedures."""
        found: dict[str, None] = {}
        for name, api in self._apis.items():
            words = name.split(".")
            if words == list(prefix):
                found.update(dict.fromkeys([*event_names(api), *procedures(api)]))
            elif words[: len(prefix)] == list(prefix):
                found[words[len(prefix)]] = None
        return list(found)

    def _refuse_clashes(self, api: Api, methods: Mapping[str, Callable[..., Any]]) -> None:
        _, *others = api.meta.name.split(".")
        for name, method in methods.items():
            if "bus_options" in inspect.signature(method).parameters:
                raise InvalidApiRegistryEntry(
                    f"procedure {api.meta.name}.{name}: no parameter can be named 'bus_options', as a call takes "
                    "options of that name"
                )
        for word in (*others, *event_names(api), *methods):
            if word in PATH_METHODS:
                raise InvalidApiRegistryEntry(
                    f"API {api.meta.name!r}: nothing in it can be named {word!r}, as `{word}` is a method of every "
                    "path on the bus; choose another name"
                )

    def __iter__(self) -> Iterator[Api]:
        return iter(tuple(self._apis.values()))

    def __contains__(self, name: object) -> bool:
        return name in self._apis

    def __len__(self) -> int:
        return len(self._apis)
