"""What travels: the event as it is published, stored and handed to handlers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

VERSION_HEADER = "api_version"


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
        """The payload, decoded from JSON into dicts, lists, strings, numbers, booleans and None."""
        return msgspec.json.decode(self.raw)

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers; empty when the publisher gave none."""
        return msgspec.json.decode(self.raw_headers, type=dict[str, str]) if self.raw_headers else {}

    # ------------------------------------------------------------------------- as an event of an API: `api.event`

    @property
    def api_name(self) -> str:
        """The topic up to its last dot: the name of the event's API."""
        return self.topic.rpartition(".")[0]

    @property
    def event_name(self) -> str:
        """The last word of the topic: the event's name in its API."""
        return self.topic.rpartition(".")[2]

    @property
    def canonical_name(self) -> str:
        """API and event, joined by a dot: the topic."""
        return self.topic

    def __str__(self) -> str:
        return f"{self.topic}({', '.join(f'{name}={value!r}' for name, value in self.kwargs.items())})"

    @property
    def kwargs(self) -> dict[str, Any]:
        """The arguments that the event was fired with; empty when the payload is no JSON object."""
        payload = self.payload
        return payload if isinstance(payload, dict) else {}

    @property
    def id(self) -> str:
        """`event_id` as text."""
        return str(self.event_id)

    @property
    def native_id(self) -> str | None:
        """`position` as text; None until the event is in the log, so also on what `fire` returns."""
        return None if self.position is None else str(self.position)

    @property
    def version(self) -> int:
        """Version of the API when the event was fired (its `Meta.version`); 1 for an event of no API."""
        text = self.headers.get(VERSION_HEADER, "")
        return int(text) if text.isdecimal() else 1
