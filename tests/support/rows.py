"""Rows as the engine would leave them, for tests that look at them or change them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from pgbus.topics import is_wildcard, pattern_regex


@dataclass(frozen=True, slots=True)
class Rows:
    """Inserts rows into the schema `pgbus` over one connection; every method returns the new row's identity."""

    connection: asyncpg.Connection

    async def event(
        self,
        position: int,
        topic: str = "orders.placed",
        payload: object = None,
        *,
        key: str | None = None,
        ancestors: Sequence[str] | None = None,
        logged_at: datetime | None = None,
        headers: dict[str, str] | None = None,
    ) -> UUID:
        event_id: UUID = await self.connection.fetchval(
            """
            INSERT INTO pgbus.events
                (position, event_id, topic, ancestors, key, payload, headers, published_at, logged_at)
            VALUES ($1, pgbus.uuid7(), $2, $3, $4, $5, $6, now(), COALESCE($7, now()))
            RETURNING event_id
            """,
            position,
            topic,
            ancestors,
            key,
            json.dumps({"n": position} if payload is None else payload),
            None if headers is None else json.dumps(headers),
            logged_at,
        )
        return event_id

    async def listener(
        self, name: str, *patterns: str, cursor: int | None = None, lanes: int | None = None, state: str = "active"
    ) -> int:
        listener_id: int = await self.connection.fetchval(
            """
            INSERT INTO pgbus.listeners (listener_name, cursor, lanes, state, service)
            VALUES ($1, $2, $3, $4, 'shop') RETURNING id
            """,
            name,
            cursor,
            lanes,
            state,
        )
        await self.connection.executemany(
            "INSERT INTO pgbus.subscriptions VALUES ($1, $2, $3)",
            [(listener_id, one, pattern_regex(one) if is_wildcard(one) else None) for one in patterns],
        )
        return listener_id

    async def delivery(
        self,
        listener_id: int,
        first: int,
        last: int | None = None,
        *,
        positions: Sequence[int] | None = None,
        attempt: int = 1,
        worker_id: int | None = None,
        lane: int | None = None,
        blocked_key: str | None = None,
        last_error: str | None = None,
        left_topic: str | None = None,
    ) -> int:
        last = first if last is None else last
        delivery_id: int = await self.connection.fetchval(
            """
            INSERT INTO pgbus.deliveries
                (listener_id, first, last, events, positions, attempt, worker_id, claim_token, lease_expires_at,
                 lane, blocked_key, last_error, left_topic)
            VALUES ($1, $2, $3, $4, $5, $6, $7, CASE WHEN $7::integer IS NOT NULL THEN gen_random_uuid() END,
                    CASE WHEN $7::integer IS NOT NULL THEN now() + interval '1 minute' END, $8, $9, $10, $11)
            RETURNING id
            """,
            listener_id,
            first,
            last,
            len(positions) if positions else last - first + 1,
            positions,
            attempt,
            worker_id,
            lane,
            blocked_key,
            last_error,
            left_topic,
        )
        return delivery_id

    async def attempt(
        self,
        listener_id: int,
        position: int,
        outcome: str = "done",
        *,
        attempt: int = 1,
        error: str | None = None,
    ) -> None:
        await self.connection.execute(
            """
            INSERT INTO pgbus.history (first, listener_id, attempt, outcome, started_at, duration, worker, error)
            VALUES ($1, $2, $3, $4, clock_timestamp(), 0.25, 'worker-1', $5)
            """,
            position,
            listener_id,
            attempt,
            outcome,
            error,
        )

    async def dead_letter(
        self,
        listener_id: int,
        position: int,
        *,
        lane: int | None = None,
        dead_at: datetime | None = None,
        error: str = "ValueError: no",
        blocked_key: str | None = None,
    ) -> int:
        letter_id: int = await self.connection.fetchval(
            """
            INSERT INTO pgbus.dead_letters
                (listener_id, position, lane, attempts, error, traceback, worker, dead_at, blocked_key)
            VALUES ($1, $2, $3, 10, $4, 'Traceback: no', 'worker-1', COALESCE($5, now()), $6) RETURNING id
            """,
            listener_id,
            position,
            lane,
            error,
            dead_at,
            blocked_key,
        )
        return letter_id

    async def worker(self, name: str, *listeners: str, live: bool = True, leads: bool = False) -> int:
        """A worker; a live one's locks are held by this connection."""
        worker_id: int = await self.connection.fetchval(
            """
            INSERT INTO pgbus.workers (name, service, host, pid, version, listeners, leading_since)
            VALUES ($1, 'shop', 'host', 17, '0', $2, CASE WHEN $3 THEN now() END) RETURNING id
            """,
            name,
            listeners,
            leads,
        )
        if live:
            await self.connection.execute("SELECT pg_advisory_lock(hashtext('pgbus.worker'), $1)", worker_id)
        if leads:
            await self.connection.execute("SELECT pg_advisory_lock(hashtext('pgbus.leader'), 1)")
        return worker_id
