"""Messages: events as they are published, stored and passed to handlers; calls and results as hooks get them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypedDict
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from pgbus.causality import CAUSATION_ID, Cause, read_headers
from pgbus.errors import UnhandledEventError
from pgbus.topics import split_name

VERSION_HEADER = "api_version"
# A longer number is not a version of an API; `find_events` has the same limit.
_VERSION_DIGITS = 9


class PublishOptions(TypedDict, total=False):
    """The options of publishing, besides the event, its topic and `using`.

    What passes them on takes `**options: Unpack[PublishOptions]`. `prepare` has them as parameters, because it uses
    each: mypy compares the two. `topic` and `using` are parameters everywhere, because their types differ between the
    async and the blocking form.
    """

    key: str | None
    """1 to 255 characters; ordered listeners hear events with the same key in order."""
    headers: Mapping[str, str] | None
    """Strings by name, at most 8 KiB of JSON."""
    deliver_at: datetime | None
    """When the event is due: an aware datetime. Give either this or `delay`."""
    delay: float | None
    """Seconds from now, by the database's clock."""
    dedup_key: str | None
    """Publishing again under it (within `dedup_ttl`) publishes no event, and returns the first one's id."""
    event_id: UUID | str | None
    """Default: a new UUIDv7."""


class EventMessage(msgspec.Struct, kw_only=True, eq=False):
    """An event: an immutable fact under a topic.

    `raw` is its payload as JSON text; `payload` decodes it. `position` is None until the event is in the log.
    """

    topic: str
    raw: str
    event_id: UUID
    key: str | None = None
    raw_headers: str | None = None
    ancestors: tuple[str, ...] | list[str] | None = None
    published_at: datetime | None = None
    deliver_at: datetime | None = None
    position: int | None = None

    @property
    def payload(self) -> Any:
        """The payload, decoded from JSON into dicts, lists, strings, numbers, booleans and None.

        Raises UnhandledEventError for JSON that Python cannot represent: numbers beyond its floats, too deep nesting.
        """
        return _decode(self.raw, "the payload")

    @payload.setter
    def payload(self, value: Any) -> None:
        self.raw = msgspec.json.encode(value).decode()

    @property
    def headers(self) -> dict[str, str]:
        """The headers; empty when the publisher gave none. Raises UnhandledEventError unless all are strings."""
        return _decode(self.raw_headers, "a header", type=dict[str, str]) if self.raw_headers else {}

    @headers.setter
    def headers(self, value: Mapping[str, str]) -> None:
        self.raw_headers = msgspec.json.encode(dict(value)).decode()

    # ------------------------------------------------------------------------------------------- why it is there

    @property
    def cause(self) -> Cause:
        """The cause of what its handlers publish and call."""
        return Cause.of(self.event_id, read_headers(self.raw_headers))

    @property
    def correlation_id(self) -> str:
        """The same for all that one request, event or run has brought about; its own id if it is a root."""
        return self.cause.correlation_id

    @property
    def causation_id(self) -> str | None:
        """The id of the event, call or run whose handler published it; None for a root."""
        return read_headers(self.raw_headers).get(CAUSATION_ID)

    # ------------------------------------------------------------------------- as an event of an API: `api.event`

    @property
    def api_name(self) -> str:
        """The topic up to its last dot: the name of the event's API."""
        return split_name(self.topic)[0]

    @property
    def event_name(self) -> str:
        """The last word of the topic: the event's name in its API."""
        return split_name(self.topic)[1]

    @property
    def canonical_name(self) -> str:
        """API and event, joined by a dot: the topic."""
        return self.topic

    def __str__(self) -> str:
        return f"{self.topic}({', '.join(f'{name}={value!r}' for name, value in self.kwargs.items())})"

    @property
    def kwargs(self) -> dict[str, Any]:
        """The arguments that the event was fired with; empty when the payload is not a JSON object."""
        payload = self.payload
        return payload if isinstance(payload, dict) else {}

    @kwargs.setter
    def kwargs(self, value: Mapping[str, Any]) -> None:
        self.payload = dict(value)

    @property
    def id(self) -> str:
        """The event's `event_id`, as a string."""
        return str(self.event_id)

    @property
    def native_id(self) -> str | None:
        """`position` as text; None until the event is in the log, so also on what `fire` returns."""
        return None if self.position is None else str(self.position)

    @property
    def version(self) -> int:
        """Version of the API when the event was fired (its `Meta.version`); 1 for an event without an API."""
        try:
            text = self.headers.get(VERSION_HEADER, "")
        except UnhandledEventError:
            return 1
        return int(text) if text.isascii() and text.isdecimal() and len(text) <= _VERSION_DIGITS else 1


class OpenEvent(EventMessage, kw_only=True, eq=False, dict=True):
    """An event while hooks have it; changes that they make in place to its payload and headers are kept.

    `raw` and `raw_headers` stay as before until it is closed again.
    """

    @classmethod
    def of(cls, event: EventMessage) -> OpenEvent:
        """A copy of the event, open."""
        return cls(**{name: getattr(event, name) for name in event.__struct_fields__})

    def __repr__(self) -> str:
        return super().__repr__().replace(type(self).__name__, EventMessage.__name__, 1)

    @property
    def payload(self) -> Any:
        """The payload, decoded once; hooks may change it in place."""
        if "payload" not in self.__dict__:
            self.__dict__["payload"] = super().payload
        return self.__dict__["payload"]

    @payload.setter
    def payload(self, value: Any) -> None:
        self.__dict__["payload"] = value

    @property
    def headers(self) -> dict[str, str]:
        """The headers, in the same way."""
        if "headers" not in self.__dict__:
            self.__dict__["headers"] = super().headers
        return self.__dict__["headers"]  # type: ignore[no-any-return]

    @headers.setter
    def headers(self, value: Mapping[str, str]) -> None:
        self.__dict__["headers"] = value

    @property
    def has_new_payload(self) -> bool:
        """Whether hooks have changed the payload."""
        return "payload" in self.__dict__ and differ(self.payload, super().payload)

    @property
    def has_new_headers(self) -> bool:
        """Whether hooks have changed the headers."""
        return "headers" in self.__dict__ and differ(self.headers, super().headers)

    def close(self, *, raw: str, raw_headers: str | None) -> None:
        """Be an event with this payload and these headers, whatever hooks did to them."""
        self.raw = raw
        self.raw_headers = raw_headers
        self.__dict__.pop("payload", None)
        self.__dict__.pop("headers", None)


def refuse_unreadable(event: EventMessage) -> None:
    """Raise UnhandledEventError for an event of the log that holds what no handler could be given.

    The database refuses such values by now, but what is in the log may be older, or a superuser's.
    """
    if event.published_at is None:
        raise UnhandledEventError(
            "published_at is not an instant of the years 1 to 9999, which Python cannot represent"
        )
    if event.raw_headers:
        _ = event.headers
    if event.ancestors and not all(isinstance(topic, str) for topic in event.ancestors):
        raise UnhandledEventError("ancestors is not a list of topics")


def _decode(text: str, what: str, *, type: Any = Any) -> Any:  # noqa: A002 - as msgspec names it
    try:
        return msgspec.json.decode(text, type=type)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise UnhandledEventError(f"{what} is not what Python can hold: {error}") from error


def differ(one: object, other: object) -> bool:
    """Whether two values are not the same JSON."""
    try:
        return msgspec.json.encode(one) != msgspec.json.encode(other)  # as JSON: to Python, 1 is True
    except Exception:  # what only `codec.encode` knows, or can refuse
        return True


class RpcMessage(msgspec.Struct, kw_only=True, eq=False):
    """A call, as hooks get it before it is sent, and before it is executed.

    `kwargs` are the arguments by name: the caller's values before sending, plain JSON values before execution.
    `headers` tell why it is made, with W3C's trace context; empty for a root. Hooks may change them before sending.
    """

    api_name: str
    procedure_name: str
    kwargs: dict[str, Any] = {}
    headers: dict[str, str] = {}
    id: str = msgspec.field(default_factory=lambda: str(uuid7()))

    @property
    def canonical_name(self) -> str:
        """The full name of the procedure: API and procedure, joined by a dot."""
        return f"{self.api_name}.{self.procedure_name}"


class ResultMessage(msgspec.Struct, kw_only=True, eq=False):
    """The result of a call, as hooks get it: on the worker after its execution, and in the caller's process.

    `result` is the procedure's result. If `error` is true, it is the `repr` of the exception, and `trace` is the
    traceback. `rpc_message_id` is the `id` of the call.
    """

    api_name: str
    procedure_name: str
    rpc_message_id: str
    result: Any = None
    error: bool = False
    trace: str | None = None
    id: str = msgspec.field(default_factory=lambda: str(uuid7()))

    @property
    def canonical_name(self) -> str:
        """The full name of the procedure: API and procedure, joined by a dot."""
        return f"{self.api_name}.{self.procedure_name}"
