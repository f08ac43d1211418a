"""Measures questions to the history by time, compared with a table that has a row for each attempt.

Two million attempts over 100 minutes, each of them a run of its own, as on a bus with few events at a time; the
question is for percentiles of the last 15 minutes. CPU is that of the session (by /proc, so on Linux only).
"""

from __future__ import annotations

import os

import asyncpg

from benchmarks.cpu import cpu_of
from benchmarks.figures import Figure
from benchmarks.support import fresh_bus, quantile

ATTEMPTS = int(os.environ.get("PGBUS_BENCH_ATTEMPTS", "2000000"))
ROUNDS = 20

FILL = """
INSERT INTO "{namespace}".history (first, started_at, listener_id, attempt, duration, outcome, worker)
SELECT n, now() - interval '100 minutes' * (1 - n::float8 / $1), 1, 1, random(), 'done', 'host-1'
FROM generate_series(1, $1::integer) AS n
"""
PLAIN = """
CREATE TABLE "{namespace}".plain_history (
    position bigint NOT NULL, listener_id integer NOT NULL, attempt integer NOT NULL, outcome text NOT NULL,
    started_at timestamptz NOT NULL, duration real NOT NULL, worker text NOT NULL);
INSERT INTO "{namespace}".plain_history
SELECT first, listener_id, attempt, outcome, started_at, duration, worker FROM "{namespace}".history ORDER BY first;
CREATE INDEX ON "{namespace}".plain_history (position);
CREATE INDEX ON "{namespace}".plain_history USING brin (started_at) WITH (pages_per_range = 32);
"""
QUESTION = """
SELECT percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY duration), count(*) FROM "{namespace}".{table}
WHERE started_at > now() - interval '15 minutes' AND outcome = 'done'
"""


async def main(dsn: str) -> list[Figure]:
    async with fresh_bus(dsn) as bus:
        namespace = bus.config.namespace
        connection = await asyncpg.connect(dsn)
        await connection.execute(FILL.format(namespace=namespace), ATTEMPTS)
        await connection.execute(PLAIN.format(namespace=namespace))
        await connection.execute("VACUUM ANALYZE")
        await connection.execute("SET jit = off")
        taken: dict[str, list[float]] = {"attempts": [], "plain_history": []}
        counts = set()
        for _ in range(ROUNDS):
            for table, times in taken.items():
                before = cpu_of([connection.get_server_pid()])
                row = await connection.fetchrow(QUESTION.format(namespace=namespace, table=table))
                times.append(1000 * (cpu_of([connection.get_server_pid()]) - before))
                assert row
                counts.add(row["count"] // 1_000)
        await connection.close()
    own, plain = (quantile(times, 0.1) for times in taken.values())
    return [
        Figure(
            "",
            f"percentiles of 15 of 100 minutes, {ATTEMPTS:,} attempts of one event each: CPU",
            [own / plain],
            baseline="a row for each attempt",
            note=f"p10 {own:.0f} and {plain:.0f} ms, parallel workers not counted; {max(counts)},000 attempts found",
        )
    ]
