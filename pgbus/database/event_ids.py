"""Makes the ids of new events, UUIDv7."""

from __future__ import annotations

from uuid import UUID

import uuid_utils
from asyncpg.pgproto import pgproto


def new_event_id() -> UUID:
    """A UUIDv7, in the driver's kind of UUID: that is made, and sent, in a third of the time."""
    return pgproto.UUID(uuid_utils.uuid7().bytes)


def new_event_ids(count: int) -> list[UUID]:
    """Many of them, each greater than the one before."""
    uuid, uuid7 = pgproto.UUID, uuid_utils.uuid7
    return [uuid(uuid7().bytes) for _ in range(count)]
