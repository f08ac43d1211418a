"""History by run against a row for each attempt: whatever is settled, readers find the same attempts in the views."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

from pgbus.database.statements import deliveries
from pgbus.database.statements.deliveries import Claim
from pgbus.database.store import Store
from pgbus.handlers.outcomes import DONE, Dead, Done, Retry
from pgbus.listeners.done_runs import STARTED_WITHIN
from pgbus.listeners.settlement import RELEASED, Ending, HeldClaim, settlement
from pgbus.messages import EventMessage

NAMES = ("mailer", "ledger", "search")
# Across several blocks of history, and the end of a partition.
POSITIONS = [*range(1, 200), *range(999_999_900, 1_000_000_100)]
KEYS = 7
EPOCH = datetime(2026, 1, 31, tzinfo=UTC)
# Runs do not keep when each of their events began, but within this.
PRECISION = timedelta(seconds=STARTED_WITHIN)

PREPARE = f"""
SELECT pgbus.open_partition(1);
INSERT INTO pgbus.listeners (listener_name) SELECT unnest('{{{",".join(NAMES)}}}'::text[]);
CREATE TABLE oracle (
    position bigint, listener_id integer, attempt integer, outcome text, started_at timestamptz, duration real,
    worker text, error text);
"""
COLUMNS = ("position", "listener_name", "attempt", "outcome", "duration", "worker", "error")
VIEW = f"SELECT {', '.join(COLUMNS)}, started_at FROM pgbus.event_history"
ORACLE = f"""
SELECT {", ".join(COLUMNS)}, started_at
FROM pgbus.events
LEFT JOIN oracle USING (position)
LEFT JOIN pgbus.listeners ON listeners.id = listener_id
"""
# As operators ask (docs/how-to/production.md), of either source.
RATES = """
SELECT listener_name, count(*) AS attempts, count(*) FILTER (WHERE outcome <> 'done') AS failed,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY duration) AS p50,
       percentile_cont(0.99) WITHIN GROUP (ORDER BY duration) AS p99
FROM ({source}) AS attempts
WHERE listener_name IS NOT NULL
GROUP BY listener_name
ORDER BY listener_name
"""


@dataclass(frozen=True, slots=True)
class Tried:
    """An event of a claim: the seconds since the one before it began, how long it took, and how it ended."""

    position: int
    gap: float
    duration: float
    ending: Ending


endings: st.SearchStrategy[Ending] = st.sampled_from([*[DONE] * 4, Retry(0.0, "again"), Dead("no", "trace"), RELEASED])
gaps = st.sampled_from([0.0, 0.0, 0.00002, 0.0004, 0.00099, 0.001, 0.5, 3600.0, -0.0003])
durations = st.one_of(st.just(0.25), st.floats(0, 100, width=32))


@st.composite
def claims(draw: st.DrawFn) -> list[Tried]:
    start = draw(st.integers(0, len(POSITIONS) - 1))
    stretch = POSITIONS[start : start + draw(st.integers(1, 150))]
    holes = draw(st.sets(st.sampled_from(stretch), max_size=3 * len(stretch) // 4))
    taken = [position for position in stretch if position not in holes] or stretch[:1]
    duration = draw(durations)
    is_plain = draw(st.booleans())  # as of a batch: one call, and all of it done
    return [
        Tried(position, 0.0, duration, DONE)
        if is_plain
        else Tried(position, draw(gaps), draw(durations), draw(endings))
        for position in taken
    ]


settlements = st.lists(
    st.tuples(st.integers(1, len(NAMES)), st.integers(1, 3), st.lists(claims(), min_size=1, max_size=3)), max_size=6
)


class Histories:
    """A database with a log; each settlement is written by the engine, and by hand as a row for each attempt."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self.store = Store(connection, namespace="pgbus")
        self._began = EPOCH.timestamp()

    async def prepare(self) -> None:
        await self.connection.execute(PREPARE)
        await self.connection.execute(
            """
            INSERT INTO pgbus.events (position, event_id, topic, key, payload, published_at, logged_at)
            SELECT p, pgbus.uuid7(), 'shop.sold', 'customer ' || p % $2, '{}', $3, $3
            FROM unnest($1::bigint[]) AS p
            """,
            POSITIONS,
            KEYS,
            EPOCH,
        )

    async def settle(self, listener_id: int, attempt: int, tried_claims: Sequence[Sequence[Tried]]) -> None:
        held_claims = [await self._claim(listener_id, attempt, tried) for tried in tried_claims]
        attempts: list[tuple[object, ...]] = []
        for held, tried in zip(held_claims, tried_claims, strict=True):
            for index, one in enumerate(tried):
                self._began += one.gap
                held.end(index, one.ending, started=self._began, duration=one.duration)
                if ended := _as_attempt(one.ending):
                    outcome, error = ended
                    attempts.append((one.position, listener_id, attempt, outcome, self._began, one.duration, error))
        await self.connection.executemany(
            "INSERT INTO oracle VALUES ($1, $2, $3, $4, to_timestamp($5), $6, 'w', $7)", attempts
        )
        values, _, _ = settlement(held_claims, listener_id=listener_id, worker="w", blocking=False)
        assert len(await deliveries.settle_deliveries(self.store, values)) == len(held_claims)

    async def _claim(self, listener_id: int, attempt: int, tried: Sequence[Tried]) -> HeldClaim:
        token = uuid4()
        positions = [one.position for one in tried]
        id_ = await self.connection.fetchval(
            """
            INSERT INTO pgbus.deliveries
                (listener_id, first, last, events, positions, attempt, claim_token, worker_id, lease_expires_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, 1, now()) RETURNING id
            """,
            listener_id, positions[0], positions[-1], len(positions), positions, attempt, token,
        )  # fmt: skip
        events = [EventMessage(topic="shop.sold", raw="{}", event_id=uuid4(), position=one) for one in positions]
        size = len(events)
        return HeldClaim(Claim(id_, token, attempt, None, False, True, positions[-1], 0.0, size, events), now=0.0)

    async def compare(self, condition: str = "true", *values: Any) -> None:
        """Both sources have the same attempts, begun at the same instants as far as history keeps them."""
        expected, found = [
            await self.connection.fetch(f"{source} WHERE {condition}", *values) for source in (ORACLE, VIEW)
        ]
        assert _without_times(found) == _without_times(expected)
        for one, other in zip(_times(found), _times(expected), strict=True):
            assert one[:-1] == other[:-1]
            assert abs(one[-1] - other[-1]) <= PRECISION

    async def compare_since(self, instant: datetime) -> None:
        """What began after an instant is found, and nothing that began before it, but for what is near it."""
        found = await self.connection.fetch(f"{VIEW} WHERE started_at > $1", instant)
        counts = [
            await self.connection.fetchval("SELECT count(*) FROM oracle WHERE started_at > $1", instant + near)
            for near in (PRECISION, -PRECISION)
        ]
        assert counts[0] <= len(found) <= counts[1]


def _as_attempt(ending: Ending) -> tuple[str, str | None] | None:
    """The outcome and the error of an attempt that ended so; None if it does not count as one."""
    match ending:
        case Retry(error=error):
            return "retry", error
        case Dead(error=error):
            return "dead", error
        case Done():
            return "done", None
    return None


def _without_times(rows: Sequence[asyncpg.Record]) -> list[tuple[str, ...]]:
    return sorted(tuple(repr(row[name]) for name in COLUMNS) for row in rows)


def _times(rows: Sequence[asyncpg.Record]) -> list[tuple[Any, ...]]:
    tried = [row for row in rows if row["started_at"]]
    return sorted((row["position"], row["listener_name"], row["attempt"], row["started_at"]) for row in tried)


async def _examine(histories: Histories, settled: Sequence[tuple[int, int, list[list[Tried]]]], some: int) -> None:
    for listener_id, attempt, tried_claims in settled:
        await histories.settle(listener_id, attempt, tried_claims)
    await histories.compare()
    position = POSITIONS[some % len(POSITIONS)]
    event_id = await histories.connection.fetchval("SELECT event_id FROM pgbus.events WHERE position = $1", position)
    await histories.compare("position = $1", position)
    await histories.compare("event_id = $1", event_id)
    await histories.compare("key = $1", f"customer {position % KEYS}")
    await histories.compare("position BETWEEN $1 AND $2", position, position + 70)
    started = await histories.connection.fetch("SELECT started_at FROM oracle ORDER BY 1")
    if started:
        await histories.compare_since(started[some % len(started)]["started_at"])
    rates = [
        await histories.connection.fetch(RATES.format(source=source))
        for source in (ORACLE, "SELECT * FROM pgbus.event_history", "SELECT * FROM pgbus.attempts")
    ]
    assert rates[0] == rates[1] == rates[2]


def test_readers_find_the_attempts_that_a_row_for_each_would_hold(database: str) -> None:
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(database))
        histories = Histories(connection)
        runner.run(histories.prepare())

        async def rolled_back(settled: Any, some: int) -> None:
            transaction = connection.transaction()
            await transaction.start()
            try:
                await _examine(histories, settled, some)
            finally:
                await transaction.rollback()

        @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
        @given(settlements, st.integers(0, 10_000))
        def examine(settled: Any, some: int) -> None:
            runner.run(rolled_back(settled, some))

        try:
            examine()
        finally:
            runner.run(connection.close())
