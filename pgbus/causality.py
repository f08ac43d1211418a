"""Causality: which event, call or run has brought about what is published or called now, in W3C's trace context too.

It travels in four headers. What has none of them is a root: its own id is its `correlation_id`, and its trace is made
of that id, so that a root costs nothing, and each of its handlers gets the same values.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol
from uuid import UUID

import msgspec

from pgbus.errors import InvalidEventError

CORRELATION_ID = "correlation_id"
CAUSATION_ID = "causation_id"
TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

MAX_CORRELATION_ID = 255
# W3C asks for no more of a tracestate to be passed on.
MAX_TRACESTATE = 512

_PRINTABLE = re.compile(rf"[\x21-\x7e]{{1,{MAX_CORRELATION_ID}}}")
_TRACESTATE = re.compile(rf"[\x20-\x7e]{{1,{MAX_TRACESTATE}}}")
# Version 00, and later ones, of which what follows the flags is not ours to know.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
# What pgbus begins by itself is marked as sampled, as OpenTelemetry's default sampler would mark it. Who wants fewer
# traces decides that where they begin, in the trace context of the request.
_SAMPLED = "01"

# Names of HTTP headers, in the order in which they are asked.
_REQUEST_CORRELATION = ("x-correlation-id", "correlation-id", "x-request-id")
_REQUEST_CAUSATION = ("x-causation-id", "causation-id")


def new_traceparent() -> str:
    """A trace that begins here."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-{_SAMPLED}"


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """The cause of what is published or called: within `caused_by(cause)`, all of it carries these values.

    - `correlation_id`: the same for all that one request, event or run has brought about; 1 to 255 visible ASCII
      characters.
    - `causation_id`: the id of the event, call or run whose handler is at work; None at a root.
    - `traceparent`, `tracestate`: W3C's trace context; default: a new trace.

    Raises InvalidEventError for a value of another form.
    """

    correlation_id: str
    causation_id: str | None = None
    traceparent: str = msgspec.field(default_factory=new_traceparent)
    tracestate: str | None = None

    def __post_init__(self) -> None:
        if not _fits(_PRINTABLE, self.correlation_id):
            raise InvalidEventError(CORRELATION_ID, f"1 to {MAX_CORRELATION_ID} visible ASCII characters are allowed")
        if self.causation_id is not None and _uuid(self.causation_id) is None:
            raise InvalidEventError(CAUSATION_ID, "it is a UUID, as text")
        if not _fits(_TRACEPARENT, self.traceparent):
            raise InvalidEventError(TRACEPARENT, "it is not of the form of W3C's Trace Context, 00-<32>-<16>-<2>")
        if self.tracestate is not None and not _fits(_TRACESTATE, self.tracestate):
            raise InvalidEventError(TRACESTATE, f"1 to {MAX_TRACESTATE} printable ASCII characters are allowed")

    @classmethod
    def of(cls, id_: UUID, headers: Mapping[str, str]) -> Cause:
        """The cause that an event, call or run with this id and these headers is.

        Headers that anyone has written: a value of another form counts as none.
        """
        correlation_id = headers.get(CORRELATION_ID, "")
        found = _TRACEPARENT.fullmatch(headers.get(TRACEPARENT, ""))
        trace, flags = (found[1], found[3]) if found else (_nonzero(id_.hex), _SAMPLED)
        tracestate = headers.get(TRACESTATE, "")
        return cls(
            correlation_id=correlation_id if _PRINTABLE.fullmatch(correlation_id) else str(id_),
            causation_id=str(id_),
            traceparent=f"00-{trace}-{_nonzero(id_.hex[16:])}-{flags}",
            tracestate=tracestate if found and _TRACESTATE.fullmatch(tracestate) else None,
        )

    @classmethod
    def of_request(cls, headers: Mapping[str, str]) -> Cause:
        """The cause that a request with these HTTP headers is; `headers` finds them by their names in lower case.

        `correlation_id` is x-correlation-id, correlation-id or x-request-id, else a new one; `causation_id`
        x-causation-id or causation-id. A value of another form counts as none, as anyone may send one.
        """
        traceparent = headers.get(TRACEPARENT) or ""
        has_trace = bool(_TRACEPARENT.fullmatch(traceparent))
        traceparent = traceparent if has_trace else new_traceparent()
        tracestate = headers.get(TRACESTATE) or ""
        correlation_ids = [headers.get(name) or "" for name in _REQUEST_CORRELATION]
        causation_ids = [headers.get(name) or "" for name in _REQUEST_CAUSATION]
        return cls(
            # Else the trace's id, by which the request is found in traces as well.
            correlation_id=next(filter(_PRINTABLE.fullmatch, correlation_ids), str(UUID(traceparent[3:35]))),
            causation_id=next((text for text in causation_ids if _uuid(text)), None),
            traceparent=traceparent,
            tracestate=tracestate if has_trace and _TRACESTATE.fullmatch(tracestate) else None,
        )

    @property
    def headers(self) -> dict[str, str]:
        """The headers that carry it."""
        values = {
            CORRELATION_ID: self.correlation_id,
            CAUSATION_ID: self.causation_id,
            TRACEPARENT: self.traceparent,
            TRACESTATE: self.tracestate,
        }
        return {name: value for name, value in values.items() if value is not None}


class Causing(Protocol):
    """An event, call or run whose handler is at work."""

    @property
    def cause(self) -> Cause:
        """The cause of what its handler publishes and calls."""
        ...


@dataclass(frozen=True, slots=True)
class Origin:
    """A call or run, by its id and its headers as JSON text."""

    id: UUID
    raw_headers: str | None = None

    @property
    def cause(self) -> Cause:
        """The cause of what its procedure or task publishes and calls."""
        return Cause.of(self.id, read_headers(self.raw_headers))


_current: ContextVar[Cause | Causing | None] = ContextVar("pgbus_cause", default=None)


class caused_by:  # noqa: N801 - a context manager, as those of contextlib are named
    """Everything published or called within has this cause: `with pgbus.caused_by(event): ...`.

    Takes an event, or a Cause. Handlers, procedures and tasks are within theirs by themselves; asyncio's tasks and the
    threads of `asyncio.to_thread` inherit it. A handler of batches is within the first event of its batch.
    """

    __slots__ = ("_cause", "_token")

    def __init__(self, cause: Cause | Causing) -> None:
        self._cause = cause
        self._token: Token[Cause | Causing | None] | None = None

    def __enter__(self) -> None:
        self._token = _current.set(self._cause)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._token is not None
        _current.reset(self._token)


def begin(causing: Causing) -> None:
    """From here on, all that this asyncio task publishes or calls is caused by this: for a task of the engine's own."""
    _current.set(causing)


def current_cause() -> Cause | None:
    """The cause of what is published or called here; None where that would be a root."""
    found = _current.get()
    if found is None or isinstance(found, Cause):
        return found
    cause = found.cause
    _current.set(cause)  # worked out once, and only for a handler that publishes or calls
    return cause


def is_caused() -> bool:
    """Whether something has caused what is published or called here."""
    return _current.get() is not None


def current_headers() -> Mapping[str, str]:
    """The headers of what is published or called here."""
    cause = current_cause()
    return cause.headers if cause else {}


def read_headers(raw: str | None) -> Mapping[str, str]:
    """The headers in this JSON text; none where it is something else than an object of strings."""
    if not raw:
        return {}
    try:
        return _decode_headers(raw)
    except (msgspec.MsgspecError, RecursionError):
        return {}


_decode_headers = msgspec.json.Decoder(dict[str, str]).decode


def _fits(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _uuid(text: object) -> UUID | None:
    try:
        return UUID(str(text))
    except ValueError:
        return None


def _nonzero(digits: str) -> str:
    return digits if digits.strip("0") else digits[:-1] + "1"  # W3C has no id of zeros alone
