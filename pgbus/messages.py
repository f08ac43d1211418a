"""What travels: the event as it is published, stored and handed to handlers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec


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
