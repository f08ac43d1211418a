"""Curves over the length of the log: what an operator asks of its views."""

from __future__ import annotations

import asyncpg

from benchmarks.cpu import cpu_of
from benchmarks.scale.curve import Curve, Trace
from benchmarks.scale.events import TOPIC, listen
from benchmarks.scale.sizes import sizes
from benchmarks.support import Handled, fresh_bus, quantile, running

FILL = 20_000
ROUNDS = 20
EXPLAIN = "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT TEXT) "

# Ten events for each key, far from each other.
INSERT = """
INSERT INTO {ns}.outbox (topic, key, payload)
SELECT $1, 'k' || n % $4, jsonb_build_object('order_id', n, 'note', repeat('n', 100))
FROM generate_series($2::bigint, $3::bigint) AS n
"""

# Each question, and the size to the power of which its cost may grow.
QUESTIONS = {
    "events: one by its position": ("SELECT * FROM {ns}.events WHERE position = {position}", 0.0),
    "events: one by its id": ("SELECT * FROM {ns}.events WHERE event_id = '{event_id}'", 0.0),
    "events: the last 100": ("SELECT * FROM {ns}.events ORDER BY position DESC LIMIT 100", 0.0),
    "events: the last 10 of a key": (
        "SELECT * FROM {ns}.events WHERE key = '{key}' ORDER BY position DESC LIMIT 10",
        0.0,
    ),
    "event_history: of one event by its position": (
        "SELECT * FROM {ns}.event_history WHERE position = {position}",
        0.0,
    ),
    "event_history: of one event by its id": ("SELECT * FROM {ns}.event_history WHERE event_id = '{event_id}'", 0.0),
    "listener_lag": ("SELECT * FROM {ns}.listener_lag", 0.0),
}


async def log(dsn: str) -> tuple[Curve, dict[str, str]]:
    """The log grows, and all of it is handled; the questions' plans on the largest log are returned, too."""
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in QUESTIONS}
    plans: dict[str, str] = {}
    async with fresh_bus(dsn) as bus:
        listen(bus, "bench", f"{TOPIC}.*")
        connection = await asyncpg.connect(dsn)
        namespace = f'"{bus.config.namespace}"'
        handled = Handled(bus)
        filled = 0
        for size in sizes("log"):
            async with running(bus) as worker:
                await worker.ready.wait()
                while filled < size:
                    part = min(FILL, size - filled)
                    values = f"{TOPIC}.t0", filled + 1, filled + part, max(1, size // 10)
                    await connection.execute(INSERT.format(ns=namespace), *values)
                    filled += part
                    await handled.until(filled - 5 * FILL)
                await handled.until(filled)
            await connection.execute(f"VACUUM ANALYZE {namespace}.events")
            middle = await connection.fetchrow(
                f"SELECT position, event_id, key FROM {namespace}.events WHERE position >= "
                f"(SELECT (min(position) + max(position)) / 2 FROM {namespace}.events) ORDER BY position LIMIT 1"
            )
            assert middle
            for name, (question, _) in QUESTIONS.items():
                asked = question.format(ns=namespace, **middle)
                cost = await _cost(connection, asked)
                points[name].append((size, cost))
                rows = await connection.fetch(EXPLAIN + asked)
                plans[name] = "\n".join(row[0] for row in rows)
        await connection.close()
    traces = [Trace(name, points[name], exponent=exponent, floor=200.0) for name, (_, exponent) in QUESTIONS.items()]
    curve = Curve(
        "log",
        "Length of the log",
        "events in the log",
        "us of CPU",
        "Questions to the views of a log in which one listener has handled everything; CPU of the session, the fastest "
        "tenth of 20. Less than 200 us counts as nothing.",
        traces,
    )
    return curve, plans


async def _cost(connection: asyncpg.Connection, question: str) -> float:
    """Microseconds of CPU of the session."""
    pid = [connection.get_server_pid()]
    times = []
    for _ in range(ROUNDS):
        before = cpu_of(pid)
        await connection.fetch(question)
        times.append(1e6 * (cpu_of(pid) - before))
    return quantile(times, 0.1)
