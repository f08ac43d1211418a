"""The contract of a bus as an AsyncAPI document (version 3.0.0 of the specification).

A channel is a topic, or a procedure; a service sends the events that it publishes, and receives the events that its
listeners hear and the calls that it serves, which have a reply. What AsyncAPI has no word for begins with `x-pgbus-`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias
from urllib.parse import quote

from pgbus.causality import CAUSATION_ID, CORRELATION_ID, TRACEPARENT, TRACESTATE
from pgbus.handlers.about import About
from pgbus.schema.compatibility import find_broken
from pgbus.schema.contract import Contract
from pgbus.schema.documents import Declaration, Stored
from pgbus.schema.generate import DIALECT
from pgbus.schema.keywords import Schema

Part: TypeAlias = dict[str, Any]

SPECIFICATION = "3.0.0"
# As JSON Schema 2020-12 is named there: https://www.asyncapi.com/docs/reference/specification/v3.0.0#multiFormatSchemaObject
SCHEMA_FORMAT = f"application/schema+json;version={DIALECT}"
_HEADERS = {
    CORRELATION_ID: "The same for all that one request has brought about",
    CAUSATION_ID: "The event, call or run whose handler published it; none at a root",
    TRACEPARENT: "W3C's trace context",
    TRACESTATE: "W3C's trace context",
}
_TRAIT = "causality"


def to_asyncapi(contract: Contract, *, listeners: Iterable[Stored] = ()) -> Part:
    """The document; `listeners` are all that the bus has, of which it is said which could not read an event.

    Equal contracts make equal documents: nothing in it depends on the time, or on the workers that are alive.
    """
    writer = _Writer(contract, list(listeners))
    for event in contract.events:
        writer.add_publisher(event)
    for listener in contract.listeners:
        writer.add_listener(listener)
    for procedure in contract.procedures:
        writer.add_procedure(procedure)
    return writer.document()


class _Writer:
    """The parts of a document, as they are found: what two operations share is written once."""

    def __init__(self, contract: Contract, listeners: list[Stored]) -> None:
        self._contract = contract
        self._listeners = listeners
        self._channels: Part = {}
        self._operations: Part = {}
        self._messages: Part = {}

    # ------------------------------------------------------------------------------------------------------- operations

    def add_publisher(self, event: Stored) -> None:
        self._add_events(event.name)
        self._operations[_named(event.service, "sends", event.name)] = {
            "action": "send",
            "channel": _reference("channels", event.name),
            "messages": [_reference("channels", event.name, "messages", self._message_of(event))],
            **_told(event.about),
            "x-pgbus-service": event.service,
        }

    def add_listener(self, listener: Stored) -> None:
        for topic in self._contract.topics_of(listener):
            if not self._add_events(topic):
                self._add_heard(listener, topic)
            messages = self._channels[topic]["messages"]
            self._operations[_named(listener.name, "receives", topic)] = {
                "action": "receive",
                "channel": _reference("channels", topic),
                "messages": [_reference("channels", topic, "messages", name) for name in sorted(messages)],
                **_told(listener.about),
                "x-pgbus-service": listener.service,
                "x-pgbus-listener": {"name": listener.name, "version": listener.version, **listener.options},
            }

    def add_procedure(self, procedure: Stored) -> None:
        name = procedure.name
        request, response = _key(f"{name}.request"), _key(f"{name}.response")
        self._messages[request] = _message(request, procedure, "parameters")
        self._messages[response] = _message(response, procedure, "response")
        answers = f"{name}.answers"
        self._channels[name] = _channel(name, "A procedure: calls of it", [request])
        self._channels[answers] = _channel(None, f"The answers to calls of {name}, each to its caller", [response])
        self._operations[_named(procedure.service, "serves", name)] = {
            "action": "receive",
            "channel": _reference("channels", name),
            "messages": [_reference("channels", name, "messages", request)],
            "reply": {
                "channel": _reference("channels", answers),
                "messages": [_reference("channels", answers, "messages", response)],
            },
            **_told(procedure.about),
            "x-pgbus-service": procedure.service,
        }

    # -------------------------------------------------------------------------------------------- channels and messages

    def _add_events(self, topic: str) -> bool:
        """Add the channel of a topic with the events that services publish there; False if nobody does."""
        published = self._contract.publishers_of(topic)
        if published and topic not in self._channels:
            for event in published:
                self._messages.setdefault(self._message_of(event), self._event(event))
            self._channels[topic] = _channel(topic, None, {self._message_of(event) for event in published})
        return bool(published)

    def _add_heard(self, listener: Stored, topic: str) -> None:
        """Add to the channel of a topic that nobody publishes, or of a pattern, what a listener would read there."""
        message = _key(f"{topic}.read_by.{listener.name}")
        schema = self._contract.schema_heard(listener, topic)
        self._messages[message] = {
            "name": topic,
            "contentType": "application/json",
            "payload": _payload(schema, message),
            "traits": [_reference("components", "messageTraits", _TRAIT)],
        }
        channel = self._channels.setdefault(topic, _channel(topic, "Nobody has published such an event yet", []))
        channel["messages"][message] = _reference("components", "messages", message)

    def _message_of(self, event: Stored) -> str:
        """The name of its message: the topic, and the service where another one publishes something else there."""
        others = self._contract.publishers_of(event.name)
        is_shared = all(one.schema == event.schema for one in others)
        return _key(event.name if is_shared else _named(event.service, event.name))

    def _event(self, event: Stored) -> Part:
        message = _message(self._message_of(event), event, "parameters")
        declared = Declaration("event", event.name, event.schema)
        breaks = [str(one) for one in find_broken([declared], self._listeners, with_missing=False)]
        return {
            **message,
            "name": event.name,
            "traits": [_reference("components", "messageTraits", _TRAIT)],
            "x-pgbus-compatibility": {"breaks": breaks},
        }

    def document(self) -> Part:
        return {
            "asyncapi": SPECIFICATION,
            "info": {
                "title": "Events and procedures on pgbus",
                "version": str(self._contract.version),
                "description": "What services have published to the database of the bus: `pgbus schema asyncapi`.",
            },
            "defaultContentType": "application/json",
            "servers": {
                "postgresql": {
                    "host": "{host}",
                    "protocol": "pgbus",
                    "description": "The PostgreSQL of the services: PGBUS_DSN names it.",
                    "variables": {"host": {"default": "localhost:5432"}},
                }
            },
            "channels": self._channels,
            "operations": self._operations,
            "components": {
                "messages": self._messages,
                "messageTraits": {
                    _TRAIT: {
                        "correlationId": {"location": f"$message.header#/{CORRELATION_ID}"},
                        "headers": {
                            "type": "object",
                            "properties": {
                                name: {"type": "string", "description": text} for name, text in _HEADERS.items()
                            },
                        },
                    }
                },
            },
        }


def _message(name: str, stored: Stored, part: str) -> Part:
    return {
        "name": name,
        "contentType": "application/json",
        "payload": _payload(stored.schema[part], name),
        **_told(stored.about),
        "x-pgbus-version": stored.version,
    }


def _channel(address: str | None, description: str | None, messages: Iterable[str]) -> Part:
    return {
        "address": address,
        **({"description": description} if description else {}),
        "messages": {name: _reference("components", "messages", name) for name in sorted(messages)},
    }


def _payload(schema: Any, message: str) -> Part:
    """A schema of another format than AsyncAPI's own. Its references begin at the document's root."""
    root = _pointer("components", "messages", message, "payload", "schema")
    return {"schemaFormat": SCHEMA_FORMAT, "schema": _rooted(schema, root)}


def _rooted(part: Any, root: str) -> Any:
    if isinstance(part, Mapping):
        return {
            key: f"{root}{value[1:]}"
            if key == "$ref" and isinstance(value, str) and value.startswith("#")
            else _rooted(value, root)
            for key, value in part.items()
        }
    return [_rooted(one, root) for one in part] if isinstance(part, list) else part


def _told(about: About) -> Schema:
    """The owner, description and links in AsyncAPI's words. There is room for one link, so all are repeated in ours."""
    links = sorted(about.links.items())
    return {
        **({"description": about.description} if about.description else {}),
        **({"externalDocs": {"description": links[0][0], "url": links[0][1]}} if links else {}),
        **({"x-pgbus-links": dict(links)} if links else {}),
        **({"x-pgbus-owner": about.owner} if about.owner else {}),
    }


def _named(*words: str) -> str:
    return ".".join(word for word in words if word)


def _reference(*path: str) -> Part:
    return {"$ref": _pointer(*path)}


def _pointer(*path: str) -> str:
    """A JSON pointer (RFC 6901) as the fragment of a URI."""
    escaped = (word.replace("~", "~0").replace("/", "~1") for word in path)
    return "#" + "".join("/" + quote(word, safe="~!$&'()*+,;=:@") for word in escaped)


def _key(text: str) -> str:
    """A key of AsyncAPI's components for a string: letters, digits, dots, hyphens and underscores."""
    return re.sub(r"[^A-Za-z0-9._-]", lambda found: f"_{ord(found[0]):x}_", text)
