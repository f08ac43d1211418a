"""The connections and the model of the machine that tells stories of deliveries."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import asyncpg

from pgbus.database.connections import ENGINE_SETTINGS, settings_sql
from pgbus.database.statements.deliveries import Claim
from pgbus.listeners.lanes import Lanes

T = TypeVar("T")
PUBLISHERS = 3
RESET = "TRUNCATE pgbus.outbox, pgbus.deliveries, pgbus.history, pgbus.dead_letters, pgbus.events, pgbus.listeners, \
         pgbus.subscriptions, pgbus.route_changes, pgbus.workers, pgbus.removed_listeners, \
         pgbus.operations, pgbus.operation_items RESTART IDENTITY CASCADE"
# Every place where an event can be at a listener. What was released or retried is in `deliveries` again.
PLACES = """
SELECT d.listener_id, p.position, 'delivery' AS place
FROM pgbus.deliveries AS d
CROSS JOIN LATERAL (
    SELECT u.position FROM unnest(d.positions) AS u (position)
    UNION ALL
    SELECT g.position FROM generate_series(d.first, d.last) AS g (position) WHERE d.positions IS NULL
) AS p
UNION ALL
SELECT x.listener_id, x.position, 'dead letter' FROM pgbus.dead_letters AS x
UNION ALL
SELECT l.id, h.position, 'done' FROM pgbus.attempts AS h JOIN pgbus.listeners AS l USING (listener_name)
WHERE h.outcome IN ('done', 'discarded')
"""
# A claimed run bars its lane: nothing of the lane that could be claimed lies before it.
LEAPS = """
SELECT c.id FROM pgbus.deliveries AS c
JOIN pgbus.deliveries AS d ON d.listener_id = c.listener_id AND d.lane = c.lane AND d.id <> c.id
WHERE c.claim_token = $1 AND d.blocked_key IS NULL AND d.first <= c.last
"""


@dataclass
class Subscriber:
    """A listener, as the model knows it."""

    id: int
    topics: tuple[str, ...]
    lanes: int | None
    blocking: bool
    owed: set[int] = field(default_factory=set)
    past: Counter[int] = field(default_factory=Counter)
    """Copies of events from before a replay: done, dead or claimed then, and still in their places."""
    paused: bool = False
    keeps_order: bool = True
    """Not after a replay, or a change of lanes: events from before and from after it meet."""
    floors: Lanes = field(init=False)

    def __post_init__(self) -> None:
        self.floors = Lanes(self.lanes or 0)


@dataclass(eq=False)
class Held:
    """A claim in the hands of a worker, living or dead."""

    subscriber: Subscriber
    claim: Claim
    worker_id: int


class Wires:
    """The connections, opened once for all examples: opening them would be most of the work."""

    def __init__(self, dsn: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.dsn = dsn
        self.leader = self.open()
        self.rival = self.open()
        self.publishers = [self.open() for _ in range(PUBLISHERS)]
        # Where vacuum has made room, rows with the same instant change their order: a story would not repeat itself.
        for table in ("outbox", "deliveries"):
            self.run(self.leader.execute(f"ALTER TABLE pgbus.{table} SET (autovacuum_enabled = off)"))

    def open(self) -> asyncpg.Connection:
        async def connect() -> asyncpg.Connection:
            connection = await asyncpg.connect(self.dsn)
            await connection.execute(settings_sql(ENGINE_SETTINGS))
            return connection

        return self.run(connect())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def close(self) -> None:
        for connection in (self.leader, self.rival, *self.publishers):
            connection.terminate()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
