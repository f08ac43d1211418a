"""The envelope: events as CloudEvents in a broker's messages, and messages of any kind as events.

The header `origins` of an event is the path on which it came: the ids of buses, and places of brokers. No bus
publishes an event that has been there, and no relay writes one to the place that it was read from; so a bridge in both
directions does not echo.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

from pgbus.cloudevents import (
    CONTENT_TYPE,
    STRUCTURED,
    CloudEvent,
    from_binary,
    from_event,
    from_json,
    read_data,
    to_binary,
    to_event,
    to_json,
)
from pgbus.codec.headers import encode_headers
from pgbus.database.statements.received import Arrival
from pgbus.errors import InvalidEventError
from pgbus.messages import EventMessage
from pgbus.topics import check_topic

ORIGINS = "origins"
_MAX_KEY = 255
# Trace context also as plain headers, under which other libraries look for it.
_PLAIN = ("traceparent", "tracestate")


class Binding(NamedTuple):
    """How a broker's headers carry the attributes of a CloudEvent."""

    prefix: str
    quoted: bool = False


KAFKA = Binding("ce_")
NATS = Binding("ce-", quoted=True)
RABBIT = Binding("ce-")
REDIS = Binding("ce_")


@dataclass(frozen=True, slots=True)
class Message:
    """A message to a broker."""

    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A message from a broker.

    - `name`: of the topic, subject, queue or stream; the topic of an event that is not a CloudEvent.
    - `place`, `position`: where it stands there, which nothing else does; None for a message without an identity.
    - `origin`: the place as in `origins`.
    """

    name: str
    place: str
    position: str | None
    origin: str
    body: bytes = field(repr=False)
    key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------------------------ out


def depart(event: EventMessage, *, bus_id: UUID, source: str) -> CloudEvent:
    """The event as it leaves this bus, which is on its path from here on."""
    cloud = from_event(event, source=source)
    path = origins_of(cloud)
    return CloudEvent(
        attributes={**cloud.attributes, ORIGINS: " ".join(dict.fromkeys([*path, str(bus_id)]))}, data=cloud.data
    )


def origins_of(cloud: CloudEvent) -> list[str]:
    """The path on which the event has come."""
    return cloud.attributes.get(ORIGINS, "").split()


def pack(cloud: CloudEvent, binding: Binding, *, structured: bool) -> Message:
    """The message of a CloudEvent, in binary or structured mode."""
    if structured:
        return Message({CONTENT_TYPE: STRUCTURED}, to_json(cloud))
    headers = to_binary(cloud, prefix=binding.prefix, quoted=binding.quoted)
    headers |= {name: cloud.attributes[name] for name in _PLAIN if name in cloud.attributes}
    return Message(headers, cloud.data or b"")


# ------------------------------------------------------------------------------------------------------------------- in


def arrive(incoming: Incoming, binding: Binding, *, relay: str, max_payload: int) -> Arrival:
    """A message as it arrives here: an event with its identity, or refused with the reason."""
    source = f"{relay} {incoming.place}"
    message_id = incoming.position or str(uuid4())
    try:
        cloud = _cloud_of(incoming, binding)
        if cloud:
            source, message_id = cloud.source, cloud.id
        event = to_event(cloud) if cloud else _plain_event(incoming, source, message_id)
        _complete(event, incoming, binding)
        if len(event.raw) > max_payload:
            raise InvalidEventError("data", f"{len(event.raw)} bytes are too many; the limit is {max_payload} bytes")
    except InvalidEventError as error:
        return refuse(Arrival(source, message_id, None, body=incoming.body), str(error))
    return Arrival(source, message_id, event)


def refuse(arrival: Arrival, reason: str) -> Arrival:
    """The same message, as one that cannot be an event."""
    event = arrival.event
    body = event.raw.encode() if event and arrival.body is None else arrival.body
    return Arrival(arrival.source, arrival.message_id, None, refused=reason.replace("\x00", "?"), body=body or b"")


def arrive_as_it_is(cloud: CloudEvent) -> Arrival:
    """An event of another bus of pgbus, as it arrives at this one."""
    return Arrival(cloud.source, cloud.id, to_event(cloud))


def has_been(event: EventMessage, place: str) -> bool:
    """Whether the place, or the bus with this id, is on the path of the event."""
    return place in event.headers.get(ORIGINS, "").split()


def _cloud_of(incoming: Incoming, binding: Binding) -> CloudEvent | None:
    headers = {name.lower(): value for name, value in incoming.headers.items()}
    if headers.get(CONTENT_TYPE, "").lower().startswith(STRUCTURED):
        return from_json(incoming.body)
    return from_binary(headers, incoming.body, prefix=binding.prefix, quoted=binding.quoted)


def _plain_event(incoming: Incoming, source: str, message_id: str) -> EventMessage:
    content_type = {name.lower(): value for name, value in incoming.headers.items()}.get(CONTENT_TYPE)
    return EventMessage(
        topic=check_topic(incoming.name),
        raw=read_data(incoming.body, content_type),
        event_id=uuid5(NAMESPACE_URL, f"{source}#{message_id}"),
    )


def _complete(event: EventMessage, incoming: Incoming, binding: Binding) -> None:
    """Add what the message has besides the CloudEvent, and its origin; check what the database would refuse."""
    if event.key is None:
        event.key = incoming.key or None
    if event.key and (len(event.key) > _MAX_KEY or "\x00" in event.key):
        raise InvalidEventError("key", f"1 to {_MAX_KEY} characters without NUL are allowed")
    others = {
        name: value
        for name, value in incoming.headers.items()
        if name.lower() != CONTENT_TYPE and not name.lower().startswith(binding.prefix)
    }
    headers = {**others, **event.headers}
    headers[ORIGINS] = " ".join(dict.fromkeys([*headers.get(ORIGINS, "").split(), incoming.origin]))
    event.raw_headers = encode_headers(headers)
