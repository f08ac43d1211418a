"""Headers of an event: the context, and the listeners that have already handled it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from pgbus.codec.headers import MAX_HEADERS
from pgbus.codec.payloads import encode
from pgbus.contrib.lihil.registry import MessageContext
from pgbus.errors import InvalidEventError
from pgbus.messages import EventMessage

CONTEXT = "lihil_context"
HANDLED = "lihil_handled_by"


def make_headers(context: Mapping[str, Any] | None, *, handled_by: Iterable[str] = ()) -> dict[str, str]:
    """The headers of an event; raises InvalidEventError for a context that is not a mapping that JSON can hold."""
    headers = {}
    if context is not None:
        if not isinstance(context, Mapping):
            raise InvalidEventError("context", f"must be a mapping of names to values, not {type(context).__name__}")
        headers[CONTEXT] = encode(dict(context), limit=MAX_HEADERS, field="context")
    if names := ",".join(handled_by):
        headers[HANDLED] = names
    return headers


def context_of(headers: Mapping[str, str]) -> MessageContext:
    """The context, as JSON brought it."""
    return MessageContext(msgspec.json.decode(headers.get(CONTEXT, "{}"), type=dict[str, Any]))


def is_handled(event: EventMessage, listener_name: str) -> bool:
    """Whether the listener's handler has run where the event was published, in the same transaction."""
    return listener_name in event.headers.get(HANDLED, "").split(",")
