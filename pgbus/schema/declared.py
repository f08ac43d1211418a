"""The schemas of this process's own events, procedures and listeners."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from pgbus.database.statements.schemas import Kind
from pgbus.events import ancestors_of, event_classes
from pgbus.handlers.about import about_of
from pgbus.handlers.signatures import type_hints
from pgbus.listeners.listener import Listener
from pgbus.registry import Registry
from pgbus.rpc.procedures import Procedure
from pgbus.schema.documents import Declaration
from pgbus.schema.fields import Field, Fields, signature_fields
from pgbus.schema.generate import payload_schema, type_schema
from pgbus.schema.keywords import Schema


class DeclaredParameter(Protocol):
    """A parameter of an event of an API."""

    name: str
    annotation: Any
    default: Any

    @property
    def is_required(self) -> bool:
        """Whether the event cannot be fired without it."""
        ...


class DeclaredEvent(Protocol):
    """An event of an API."""

    accepts_any: bool

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The declared parameters, by their names."""
        ...


class Apis(Protocol):
    """The APIs that this process has registered."""

    def event(self, topic: str) -> DeclaredEvent | None:
        """The event that is fired under the topic."""
        ...

    def events(self) -> Iterator[tuple[str, DeclaredEvent]]:
        """Every event, with its topic."""
        ...

    def declaring(self, topic: str) -> type | None:
        """The class of the API that an event is of."""
        ...

    def __contains__(self, name: object) -> bool: ...


class Code:
    """The declarations of a process: its APIs, its procedures, and the event classes that it has loaded."""

    def __init__(self, *, registry: Registry, apis: Apis) -> None:
        self._registry = registry
        self._apis = apis

    def declare(
        self, *, procedures: Iterable[Procedure] | None = None, listeners: Iterable[Listener] = ()
    ) -> list[Declaration]:
        """All events, these procedures (default: all), these listeners."""
        served = self._registry.procedures if procedures is None else procedures
        return [
            *(self._api_event(topic, event) for topic, event in self._apis.events()),
            *(
                _class_event(topic, cls)
                for topic, cls in sorted(event_classes().items())
                if self._apis.event(topic) is None
            ),
            *(_procedure(one) for one in served),
            *(_listener(one) for one in listeners),
        ]

    def find(self, kind: Kind, name: str) -> Declaration | None:
        """The declaration of one event or procedure."""
        if kind == "procedure":
            procedure = self._registry.procedures.get(name)
            return None if procedure is None else _procedure(procedure)
        if event := self._apis.event(name):
            return self._api_event(name, event)
        cls = event_classes().get(name)
        return None if cls is None else _class_event(name, cls)

    def fires(self, topic: str) -> bool:
        """Whether the event is this process's own."""
        return self._apis.event(topic) is not None or topic in event_classes()

    def _api_event(self, topic: str, event: DeclaredEvent) -> Declaration:
        parameters: Iterable[DeclaredParameter] = event.parameters.values()
        fields = [Field(one.name, one.annotation, one.default, is_required=one.is_required) for one in parameters]
        shape = Fields(fields, is_open=event.accepts_any)
        schema = {"parameters": payload_schema(shape, title=f"Event {topic} parameters")}
        return Declaration("event", topic, schema, about=about_of(event, within=self._apis.declaring(topic)))

    def serves(self, api_name: str, procedure: str) -> bool:
        """Whether the procedure is this process's own, or its API is."""
        return api_name in self._apis or procedure in self._registry.procedures


# What is said of a class is said once, and so is a warning that nothing can be.
_classes: weakref.WeakKeyDictionary[type, Schema] = weakref.WeakKeyDictionary()


def _class_event(topic: str, cls: type) -> Declaration:
    schema = _classes.get(cls)
    if schema is None:
        schema = _classes[cls] = {"parameters": payload_schema(cls, title=f"Event {topic} parameters")}
    return Declaration("event", topic, schema, ancestors_of(cls), about_of(cls))


def _procedure(procedure: Procedure) -> Declaration:
    hints = type_hints(procedure.handler)
    parameters = signature_fields(procedure.handler, hints)
    schema = {
        "parameters": payload_schema(parameters, title=f"RPC {procedure.name}() parameters"),
        "response": type_schema(hints.get("return", Any), title=f"RPC {procedure.name}() response"),
    }
    api = getattr(procedure.handler, "__self__", None)
    return Declaration("procedure", procedure.name, schema, about=about_of(procedure.handler, within=type(api)))


def _listener(listener: Listener) -> Declaration:
    events = {
        pattern: payload_schema(listener.reads(pattern), title=f"Listener {listener.name} on {pattern}")
        for pattern in listener.patterns
    }
    return Declaration("listener", listener.name, {"events": events}, about=about_of(listener.handler))
