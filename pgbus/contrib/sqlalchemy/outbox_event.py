"""An event as a mapped row: `session.add` publishes it, and what takes back the session's rows takes it back, too."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, TypedDict, Unpack
from uuid import UUID

from sqlalchemy import func
from sqlalchemy.orm import Mapped

from pgbus.database.adapters.outbox_mapping import MappedEvent, map_subclass
from pgbus.messages import EventMessage
from pgbus.publishing.outbox import Limits, prepare
from pgbus.publishing.rows import OutboxRow


class OutboxEventOptions(TypedDict, total=False):
    """The options of an OutboxEvent besides its topic: those of PublishOptions that a single INSERT can fulfil."""

    key: str | None
    headers: Mapping[str, str] | None
    deliver_at: datetime | None
    delay: float | None
    event_id: UUID | str | None


class OutboxEvent(MappedEvent):
    """An event that is published when its session commits: `session.add(OutboxEvent(UserCreated("adam")))`.

    - `event`: an instance of an event class; or, with `topic`, anything that is JSON.
    - `key`, `headers`, `deliver_at`, `delay` and `event_id` are those of PublishOptions. There is no `dedup_key`:
      use `bus.publish(..., using=session)` for that.

    `message` is the event as its publisher knows it, with its `event_id`; it can be read at any time, while the columns
    cannot be once the session has committed: the row stays in the outbox for moments only. As with an INSERT in SQL, a
    bus's hooks are not called. In another namespace than `pgbus`, give the engine
    `execution_options={"schema_translate_map": {"pgbus": "your_namespace"}}`.

    It belongs to no bus, so no configuration of one applies: a payload is at most 1 MiB, and instances of event classes
    are always checked. Where `max_payload` or `validate` is set, use `bus.publish(..., using=session)`.

    Raises InvalidEventError when it is made, as `Bus.publish` does.
    """

    event_id: Mapped[UUID]
    topic: Mapped[str]
    ancestors: Mapped[str | None]
    key: Mapped[str | None]
    payload: Mapped[str]
    headers: Mapped[str | None]
    deliver_at: Mapped[datetime | None]

    def __init__(self, event: object, *, topic: str | None = None, **options: Unpack[OutboxEventOptions]) -> None:
        row = prepare(event, topic=topic, limits=Limits(), **options)
        for name, value in columns_of(row).items():
            setattr(self, name, value)
        self._message = row.message()

    @property
    def message(self) -> EventMessage:
        """The event as its publisher knows it."""
        return self._message


map_subclass(OutboxEvent)


def columns_of(row: OutboxRow) -> dict[str, Any]:
    """The values of the mapped columns for an event that was checked."""
    deliver_at: Any = row.deliver_at
    if row.delay is not None:
        deliver_at = func.clock_timestamp() + timedelta(seconds=row.delay)
    return {
        "event_id": row.event_id,
        "topic": row.topic,
        "ancestors": " ".join(row.ancestors) or None,
        "key": row.key,
        "payload": row.payload,
        "headers": row.headers,
        "deliver_at": deliver_at,
    }
