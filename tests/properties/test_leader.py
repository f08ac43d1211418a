"""A leader that is replaced and killed all the time, beside publishers that do whatever PostgreSQL lets them.

PGBUS_SOAK=n tries n times 30 seconds instead of a few.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import Counter
from dataclasses import dataclass, field

import asyncpg
import pytest

from pgbus.database.connections import ENGINE_SETTINGS, settings_sql
from pgbus.database.faults import DATABASE_ERRORS
from tests.support import eventually
from tests.support.leading import Leading
from tests.support.order import faults
from tests.support.rows import Rows

SOAK = int(os.environ.get("PGBUS_SOAK", "0"))
SECONDS = 30.0 if SOAK else 4.0
PUBLISHERS = 10
KEYS = 6

INSERT = """
INSERT INTO pgbus.outbox (topic, key, payload)
SELECT 'a.b', $1, jsonb_build_object('tag', $2::text, 'n', $3::integer) FROM generate_series(1, $4::integer)
"""

GONE = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)"


@dataclass
class Story:
    """What was committed, by the tag of its insert, and whether it goes on."""

    dsn: str
    seed: int
    committed: Counter[str] = field(default_factory=Counter)
    ended: bool = False
    all_committed: bool = False
    restarts: int = 0

    async def publish(self, number: int) -> None:
        """Transactions of one session, one after the other."""
        chance = random.Random(self.seed * 1_000 + number)
        connection = await asyncpg.connect(self.dsn)
        count = 0
        while not self.ended:
            count += 1
            tags: Counter[str] = Counter()
            transaction = connection.transaction()
            await transaction.start()
            try:
                for part in range(chance.choice([1, 1, 1, 2, 3])):
                    await self._act(connection, chance, f"{number}.{count}.{part}", tags)
                if chance.random() < 0.02:
                    await asyncio.sleep(chance.random() * SECONDS / 4)  # an open transaction is the point here
            except asyncpg.DeadlockDetectedError:
                await transaction.rollback()
                continue
            if chance.random() < 0.15:
                await transaction.rollback()
            else:
                await transaction.commit()
                self.committed.update(tags)
        await connection.close()

    async def _act(self, connection: asyncpg.Connection, chance: random.Random, tag: str, tags: Counter[str]) -> None:
        match chance.random():
            case roll if roll < 0.35:
                size = chance.choice([1, 1, 1, 5, 40])
                await connection.execute(INSERT, None, tag, 0, size)
                tags[tag] = size
            case roll if roll < 0.7:
                savepoint = connection.transaction()
                await savepoint.start()
                size = chance.choice([1, 2, 7])
                await connection.execute(INSERT, None, tag, 0, size)
                if chance.random() < 0.4:
                    await savepoint.rollback()
                else:
                    await savepoint.commit()
                    tags[tag] = size
            case _:
                # Whoever holds the row of a key publishes its next number: that is the order to keep.
                key = chance.randint(1, KEYS)
                n = await connection.fetchval("UPDATE public.keys SET n = n + 1 WHERE k = $1 RETURNING n", key)
                await connection.execute(INSERT, str(key), tag, n, 1)
                tags[tag] = 1
        await asyncio.sleep(chance.random() * 0.02 if chance.random() < 0.3 else 0)

    async def lead(self) -> None:
        """Leaders, one after the other, until everything is in the log."""
        chance = random.Random(self.seed)
        while not await self._lead_once(chance):
            self.restarts += 1

    async def _lead_once(self, chance: random.Random) -> bool:
        connection = await asyncpg.connect(self.dsn)
        await connection.execute(settings_sql(ENGINE_SETTINGS))
        try:
            leading = await Leading.start(connection)
            leading.mover.run = 7
            batch = chance.choice([3, 50, 2_000])
            for _ in range(chance.randint(5, 200)):
                leading.mover.rows = batch
                leading.expects_one = chance.random() < 0.5
                look = await leading.look()
                if not look.moved and self.all_committed:
                    return await leading.drain() == 0
                await asyncio.sleep(0 if look.moved else chance.random() * 0.004)
            if chance.random() < 0.5:
                await self._kill(connection, leading, chance)
            return False
        finally:
            connection.terminate()

    async def _kill(self, connection: asyncpg.Connection, leading: Leading, chance: random.Random) -> None:
        """End its session in the middle of a look."""
        look = asyncio.create_task(leading.look())
        killer = await asyncpg.connect(self.dsn)
        await asyncio.sleep(chance.random() * 0.003)
        pid = connection.get_server_pid()
        await killer.execute("SELECT pg_terminate_backend($1)", pid)
        # Nothing but its end keeps the next leader from looking while this one still writes.
        await eventually(lambda: killer.fetchval(GONE, pid))
        await killer.close()
        with contextlib.suppress(*DATABASE_ERRORS):
            await look


@pytest.mark.parametrize("seed", range(SOAK or 2))
async def test_every_event_is_logged_once_and_in_order(database: str, seed: int) -> None:
    auditor = await asyncpg.connect(database)
    await auditor.execute(
        "CREATE TABLE public.keys (k integer PRIMARY KEY, n integer NOT NULL); "
        f"INSERT INTO public.keys SELECT n, 0 FROM generate_series(1, {KEYS}) AS n"
    )
    listener_id = await Rows(auditor).listener("all", "**")
    story = Story(database, seed)
    leading = asyncio.create_task(story.lead())
    publishing = [asyncio.create_task(story.publish(number)) for number in range(PUBLISHERS)]
    await asyncio.sleep(SECONDS)
    # On a machine that hardly moves, one leader alone may last for so long.
    await eventually(lambda: story.restarts > 0)
    story.ended = True
    await asyncio.gather(*publishing)
    story.all_committed = True
    async with asyncio.timeout(60):
        await leading
    logged = await auditor.fetch("SELECT payload ->> 'tag' AS tag, count(*) FROM pgbus.events GROUP BY 1")
    assert {row["tag"]: row["count"] for row in logged} == dict(story.committed)
    assert await faults(auditor, published=story.committed.total(), listener_id=listener_id) == []
    await auditor.close()
