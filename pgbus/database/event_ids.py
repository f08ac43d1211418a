"""Ids of new events."""

from __future__ import annotations

from uuid import UUID

import uuid_utils
from asyncpg.pgproto import pgproto


def new_event_id() -> UUID:
    """A UUIDv7, in the driver's kind of UUID: that is made, and sent, in a third of the time."""
    return pgproto.UUID(uuid_utils.uuid7().bytes)
