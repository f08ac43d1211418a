"""Whether the log holds what was committed, once each, and owes it to all who hear it; and leaders that fail at it."""

from __future__ import annotations

import asyncpg

from pgbus.database.statements.sequencer import Reading, read_outbox, take_xid
from pgbus.leader.frontier import Seen, Snapshot
from pgbus.leader.mover import Mover

OWED = """
SELECT e.position
FROM pgbus.events AS e
WHERE NOT EXISTS (
    SELECT 1 FROM pgbus.deliveries AS d
    WHERE d.listener_id = $1
      AND (e.position = ANY (d.positions) OR (d.positions IS NULL AND e.position BETWEEN d.first AND d.last)))
"""


async def faults(connection: asyncpg.Connection, *, published: int, listener_id: int | None = None) -> list[str]:
    """What is wrong after `published` events were committed and every look was done.

    Events that have a key carry a number `n`, and must be in its order.
    """
    found = []
    [[events, distinct, left]] = await connection.fetch(
        "SELECT count(*), count(DISTINCT event_id), (SELECT count(*) FROM pgbus.outbox) FROM pgbus.events"
    )
    if left:
        found.append(f"{left} of {published} are left in the outbox")
    if events + left != published:
        found.append(f"{published} were published, and {events} logged")
    if events != distinct:
        found.append(f"{events - distinct} were logged twice")
    disorder = await connection.fetchval(
        """
        SELECT count(*) FROM (
            SELECT (payload ->> 'n')::integer AS n,
                   lag((payload ->> 'n')::integer) OVER (PARTITION BY key ORDER BY position) AS before
            FROM pgbus.events WHERE key IS NOT NULL) AS e
        WHERE n < before
        """
    )
    if disorder:
        found.append(f"{disorder} came before an earlier event of their key")
    if listener_id is not None:
        not_owed = await connection.fetch(OWED, listener_id)
        owed = await connection.fetchval("SELECT sum(events) FROM pgbus.deliveries WHERE listener_id = $1", listener_id)
        if not_owed or (owed or 0) != events:
            found.append(f"{owed} deliveries of {events} events, {len(not_owed)} are owed to nobody")
    return found


class FencedByXmax(Mover):
    """A mutant: it takes its snapshot's xmax for an xid that is higher than any that was given out."""

    async def _advance(self, snapshot: Snapshot, seen: Seen, logged: object) -> None:
        await super()._advance(snapshot, seen, logged)  # type: ignore[arg-type]
        self.frontier = type(self.frontier)(
            self.frontier.high, self.frontier.holes, snapshot.xmax, self.frontier.is_starting
        )
        await take_xid(self._store)


class LookingTwice(Mover):
    """A mutant: it looks the holes up first, and then, in another snapshot, at what is new."""

    async def between(self) -> None:
        """What happens between the two."""

    async def _read(self) -> tuple[Reading, Snapshot]:
        holes = self.frontier.questions(quiet_ones=True)
        old = await self._read_with(holes)
        rows = [row for row in old.rows if row.id <= self.frontier.high]
        await self.between()
        new = await read_outbox(self._store, high=self.frontier.high, batch=self.rows, hashes=False)
        return Reading(old.snapshot, [*rows, *new.rows]), Snapshot.parse(old.snapshot)
