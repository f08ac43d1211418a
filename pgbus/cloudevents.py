"""CloudEvents 1.0: events as other systems exchange them, in both modes, and back.

| CloudEvents | an event of pgbus |
|---|---|
| `id`, `source`, `type`, `time` | `event_id`, the service, the topic, `published_at` |
| `partitionkey` and `subject` | the key |
| `traceparent`, `tracestate`, `correlationid`, `causationid` | the headers of its cause |
| `pgbusancestors` | the topics of its class's parents |
| other extensions | headers of that name; all names that no extension may have are in `pgbusheaders`, as JSON |

What has no place in an event of pgbus stays in headers (`ce_id`, `ce_source`, `ce_subject`, `ce_time`,
`ce_dataschema`), so that an event that is sent on is still the one that it was.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC
from typing import Any
from urllib.parse import quote, unquote
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec

from pgbus.causality import CAUSATION_ID, CORRELATION_ID
from pgbus.errors import InvalidEventError
from pgbus.messages import EventMessage
from pgbus.topics import check_topic

JSON = "application/json"
STRUCTURED = "application/cloudevents+json"
CONTENT_TYPE = "content-type"
SPEC_VERSION = "1.0"

_REQUIRED = ("id", "source", "type")
_NAME = re.compile("[a-z0-9]+", re.ASCII)
# The specification asks for names of at most 20 characters; longer ones are read, and not written.
_EXTENSION = re.compile("[a-z0-9]{1,20}", re.ASCII)
_OWN = frozenset(
    {"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "data", "partitionkey"}
)
_IS_JSON = re.compile(r"[^;]*[/+]json\s*(;.*)?", re.I | re.S)
_MAX_KEY = 255
_ANCESTORS = "pgbusancestors"
_HEADERS = "pgbusheaders"
# Header of an event: extension of a CloudEvent.
_RENAMED = {CORRELATION_ID: "correlationid", CAUSATION_ID: "causationid"}
_NAMED_BACK = {extension: header for header, extension in _RENAMED.items()}
# All printable ASCII but the space, the quote and the percent sign: so says the binding of HTTP, and that of NATS.
_UNQUOTED = "!#$&'()*+,-./:;<=>?@[\\]^_`{|}~"


class CloudEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A CloudEvent: its attributes and extensions as strings by name, and its data as bytes.

    Raises InvalidEventError for a version other than 1.0, and where `id`, `source` or `type` is missing or empty.
    """

    attributes: Mapping[str, str]
    data: bytes | None = None

    def __post_init__(self) -> None:
        version = self.attributes.get("specversion", SPEC_VERSION)
        if version != SPEC_VERSION:
            raise InvalidEventError("specversion", f"must be {SPEC_VERSION}, not {version!r}")
        for name in _REQUIRED:
            if not self.attributes.get(name):
                raise InvalidEventError(name, "a CloudEvent must have one, which is not empty")
        for name in self.attributes:
            if not _NAME.fullmatch(name):
                raise InvalidEventError(name, "names of attributes are lower-case letters and digits")

    @property
    def id(self) -> str:
        """With `source`, the identity of the event."""
        return self.attributes["id"]

    @property
    def source(self) -> str:
        """The system that made the event."""
        return self.attributes["source"]

    @property
    def type(self) -> str:
        """The topic of the event."""
        return self.attributes["type"]

    @property
    def key(self) -> str | None:
        """The key by which events are kept in order."""
        return self.attributes.get("partitionkey") or None


# ------------------------------------------------------------------------------------------- from an event and back


def from_event(event: EventMessage, *, source: str) -> CloudEvent:
    """The CloudEvent of an event; `source` is the service that published it, unless it came as a CloudEvent itself.

    Raises UnhandledEventError for headers that are not strings.
    """
    headers = dict(event.headers)
    attributes = {
        "specversion": SPEC_VERSION,
        "id": headers.pop("ce_id", str(event.event_id)),
        "source": headers.pop("ce_source", source),
        "type": event.topic,
        "datacontenttype": JSON,
    }
    given = {
        "subject": headers.pop("ce_subject", event.key),
        "partitionkey": event.key,
        "time": headers.pop("ce_time", _written(event)),
        "dataschema": headers.pop("ce_dataschema", None),
        "correlationid": headers.pop(CORRELATION_ID, str(event.event_id)),
        "causationid": headers.pop(CAUSATION_ID, None),
        _ANCESTORS: " ".join(event.ancestors or ()),
    }
    others: dict[str, str] = {}
    for name, value in headers.items():
        is_extension = _EXTENSION.fullmatch(name) and value and name not in {*_OWN, *given, _HEADERS}
        (given if is_extension else others)[name] = value
    if others:
        given[_HEADERS] = msgspec.json.encode(others).decode()
    attributes |= {name: value for name, value in given.items() if value}
    return CloudEvent(attributes=attributes, data=event.raw.encode())


def to_event(cloud: CloudEvent) -> EventMessage:
    """The event of a CloudEvent; its `event_id` is the `id` where that is a UUID, else one that `source` and `id` give.

    Raises InvalidEventError for a type that is not a topic, and for data that is neither JSON nor text.
    """
    attributes = dict(cloud.attributes)
    id_, source, topic = (attributes.pop(name) for name in _REQUIRED)
    event_id = _uuid(id_) or uuid5(NAMESPACE_URL, f"{source}#{id_}")
    key, subject = attributes.pop("partitionkey", None), attributes.pop("subject", None)
    if not key and subject and len(subject) <= _MAX_KEY:
        key = subject
    headers = {"ce_source": source, **_packed(attributes.pop(_HEADERS, None))}
    if id_ != str(event_id):
        headers["ce_id"] = id_
    if subject and subject != key:
        headers["ce_subject"] = subject
    for name in ("time", "dataschema"):
        if value := attributes.pop(name, None):
            headers[f"ce_{name}"] = value
    if attributes.get("correlationid") == id_:  # of a root, which has none of its own
        del attributes["correlationid"]
    ancestors = attributes.pop(_ANCESTORS, "").split()
    raw = read_data(cloud.data, attributes.pop("datacontenttype", None))
    attributes.pop("specversion", None)
    headers |= {_NAMED_BACK.get(name, name): value for name, value in attributes.items()}
    return EventMessage(
        topic=check_topic(topic),
        raw=raw,
        event_id=event_id,
        key=key,
        raw_headers=msgspec.json.encode(headers).decode(),
        ancestors=[check_topic(name) for name in ancestors] or None,
    )


def read_data(data: bytes | None, content_type: str | None) -> str:
    """Data as the JSON text of a payload: JSON as it is, text as a string; none is null.

    Raises InvalidEventError for all else: without a content type, it has to be JSON.
    """
    try:
        if not data:
            return "null"
        text = data.decode()
        if content_type is None or _IS_JSON.fullmatch(content_type):
            msgspec.json.decode(data)
            return text
        if content_type.lower().startswith("text/"):
            return msgspec.json.encode(text).decode()
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        raise InvalidEventError("data", f"is not JSON: {error}") from None
    raise InvalidEventError("data", f"is of type {content_type}; a payload is JSON, or a string")


def _written(event: EventMessage) -> str | None:
    at = event.published_at
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z") if at else None


def _packed(text: str | None) -> dict[str, str]:
    try:
        return msgspec.json.decode(text, type=dict[str, str]) if text else {}
    except msgspec.MsgspecError as error:
        raise InvalidEventError(_HEADERS, f"is not a JSON object of strings: {error}") from None


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


# ------------------------------------------------------------------------------------------------------------- modes


def to_binary(cloud: CloudEvent, *, prefix: str, quoted: bool = False) -> dict[str, str]:
    """The headers of binary mode, whose body is the data; `prefix` and whether values are quoted is the broker's."""
    return {
        CONTENT_TYPE if name == "datacontenttype" else f"{prefix}{name}": _quote(value) if quoted else value
        for name, value in cloud.attributes.items()
    }


def from_binary(
    headers: Mapping[str, str], body: bytes | None, *, prefix: str, quoted: bool = False
) -> CloudEvent | None:
    """The CloudEvent of a message in binary mode; None for a message that is not one.

    Raises InvalidEventError for a CloudEvent that is not valid.
    """
    found = {name.lower(): value for name, value in headers.items()}
    if f"{prefix}specversion" not in found:
        return None
    attributes = {
        name.removeprefix(prefix): unquote(value) if quoted else value
        for name, value in found.items()
        if name.startswith(prefix)
    }
    if CONTENT_TYPE in found:
        attributes["datacontenttype"] = found[CONTENT_TYPE]
    return CloudEvent(attributes=attributes, data=body)


def to_json(cloud: CloudEvent) -> bytes:
    """The one JSON document of structured mode."""
    document: dict[str, object] = dict(cloud.attributes)
    if cloud.data is not None:
        if _IS_JSON.fullmatch(cloud.attributes.get("datacontenttype", JSON)):
            document["data"] = msgspec.Raw(cloud.data)
        else:
            document["data_base64"] = base64.b64encode(cloud.data).decode()
    return msgspec.json.encode(document)


def from_json(text: bytes | str) -> CloudEvent:
    """The CloudEvent of such a document; raises InvalidEventError for what is not one."""
    try:
        document = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        if "specversion" not in document:
            raise InvalidEventError("specversion", "a CloudEvent must have one")
        data = _data_of(document)
        attributes = {name: _string(name, msgspec.json.decode(raw)) for name, raw in document.items()}
    except (msgspec.MsgspecError, RecursionError, binascii.Error) as error:
        raise InvalidEventError("cloudevent", f"is not a JSON object: {error}") from None
    return CloudEvent(attributes={name: value for name, value in attributes.items() if value is not None}, data=data)


def _data_of(document: dict[str, msgspec.Raw]) -> bytes | None:
    """Take the data out of a document."""
    data, encoded = document.pop("data", None), document.pop("data_base64", None)
    if encoded is not None:
        return base64.b64decode(msgspec.json.decode(encoded, type=str), validate=True)
    if data is None:
        return None
    content_type = document.get("datacontenttype")
    if content_type and not _IS_JSON.fullmatch(msgspec.json.decode(content_type, type=str)):
        return msgspec.json.decode(data, type=str).encode()
    return bytes(data)


def _string(name: str, value: Any) -> str | None:
    """The string form that the specification gives a value of its type system."""
    match value:
        case None | str():
            return value
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case _:
            raise InvalidEventError(name, "attributes are strings, integers and booleans")


def _quote(text: str) -> str:
    return quote(text, safe=_UNQUOTED)
