"""The events that the contract publishes, and what is in the outbox then."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import asyncpg

from pgbus.events import event


@event("people.changed")
@dataclass
class PersonChanged:
    name: str


@event("people.moved")
@dataclass
class PersonMoved(PersonChanged):
    city: str


async def outbox_rows(observer: asyncpg.Connection) -> list[asyncpg.Record]:
    rows: list[asyncpg.Record] = await observer.fetch("SELECT * FROM pgbus.outbox ORDER BY id")
    return rows


async def payloads(observer: asyncpg.Connection) -> list[Any]:
    return [json.loads(row["payload"]) for row in await outbox_rows(observer)]
