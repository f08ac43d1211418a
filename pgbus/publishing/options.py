"""The options of publishing one event, in every form: `publish`, `publish_sync`, and `fire` of an API's event."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TypedDict
from uuid import UUID


class PublishOptions(TypedDict, total=False):
    """What may be given beside an event, its topic and `using`."""

    key: str | None
    """1 to 255 characters; ordered listeners hear events with the same key in order."""
    headers: Mapping[str, str] | None
    """Strings by name, at most 8 KiB of JSON."""
    deliver_at: datetime | None
    """When the event is due: an aware datetime. Give either this or `delay`."""
    delay: float | None
    """Seconds from now, by the database's clock."""
    dedup_key: str | None
    """Publishing again under it (within `dedup_ttl`) is no new event, and returns the first one's id."""
    event_id: UUID | str | None
    """Default: a new UUIDv7."""
