"""The judge of a chaos run: it compares business rows with what handlers wrote, and both with the views of pgbus.

It knows nothing of the engine but its public views, and reads them only once everything has come to rest.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.chaos.workload import ALWAYS_DEAD, LISTENERS, ORDERED, TOPIC, TRANSACTIONAL
from tests.support import eventually

# A committed event and a listener; `dead` where the listener was meant to give it up.
_OWED = f"""
    SELECT l.listener, p.n, p.key, p.serial, l.listener = 'failing' AND p.n % {ALWAYS_DEAD} = 0 AS dead
    FROM placed AS p CROSS JOIN unnest($1::text[]) AS l (listener)
"""
_FIRST = "SELECT listener, n, min(id) AS id, min(at) AS at, count(*) AS times FROM handled GROUP BY listener, n"
_DONE = f"""
    SELECT listener_name AS listener, (payload ->> 'n')::bigint AS n, count(*) AS times
    FROM pgbus.event_history WHERE topic = '{TOPIC}' AND outcome = 'done' GROUP BY 1, 2
"""
_DEAD = (
    f"SELECT listener_name AS listener, (payload ->> 'n')::bigint AS n, error FROM pgbus.dead WHERE topic = '{TOPIC}'"
)

UNHANDLED = f"""
    SELECT o.listener, o.n FROM ({_OWED}) AS o LEFT JOIN ({_FIRST}) AS f USING (listener, n)
    WHERE f.n IS NULL AND NOT o.dead
"""
# Each finds what is wrong, as rows to show; all take the listeners, the transactional and the ordered ones.
LAWS = {
    "a committed event was not handled": UNHANDLED,
    "an event was handled that was never committed": f"""
        SELECT f.listener, f.n FROM ({_FIRST}) AS f WHERE NOT EXISTS (SELECT FROM placed AS p WHERE p.n = f.n)
    """,
    "a transactional listener took effect more than once": f"""
        SELECT f.listener, f.n, f.times FROM ({_FIRST}) AS f WHERE f.listener = ANY ($2) AND f.times > 1
    """,
    "an event of a key was handled before an earlier one": f"""
        SELECT * FROM (
            SELECT f.listener, f.n, p.key, p.serial,
                   max(p.serial) OVER (PARTITION BY f.listener, p.key ORDER BY f.id) AS highest
            FROM ({_FIRST}) AS f JOIN placed AS p USING (n) WHERE f.listener = ANY ($3)) AS o
        WHERE o.serial < o.highest
    """,
    "an event is a dead letter, and its handler did not give it up": f"""
        SELECT d.listener, d.n, left(d.error, 200) FROM ({_DEAD}) AS d
        WHERE NOT (d.listener = 'failing' AND d.n % {ALWAYS_DEAD} = 0)
    """,
    "an event that its handler gave up is no dead letter": f"""
        SELECT o.listener, o.n FROM ({_OWED}) AS o LEFT JOIN ({_DEAD}) AS d USING (listener, n)
        WHERE o.dead AND d.n IS NULL
    """,
    "the history does not have an event as done once": f"""
        SELECT o.listener, o.n, h.times FROM ({_OWED}) AS o LEFT JOIN ({_DONE}) AS h USING (listener, n)
        WHERE NOT o.dead AND h.times IS DISTINCT FROM 1
    """,
    "the history has an event as done that nobody handled": f"""
        SELECT h.listener, h.n FROM ({_DONE}) AS h LEFT JOIN ({_FIRST}) AS f USING (listener, n) WHERE f.n IS NULL
    """,
    "something is still owed or claimed": """
        SELECT listener_name, state, first_position, worker FROM pgbus.pending
    """,
    "a listener lags": "SELECT listener_name, lag_events FROM pgbus.listener_lag WHERE lag_events > 0",
    "a run of a schedule is done, and its task did not run": """
        SELECT h.due_at FROM pgbus.schedule_history AS h
        WHERE h.outcome = 'done' AND NOT EXISTS (SELECT FROM ticked AS t WHERE t.due_at = h.due_at)
    """,
    "a schedule's time was done twice": """
        SELECT due_at, count(*) FROM pgbus.schedule_history WHERE outcome = 'done' GROUP BY due_at HAVING count(*) > 1
    """,
    "a call was executed more than once": "SELECT n, count(*) FROM served GROUP BY n HAVING count(*) > 1",
}
SHOWN = 5
STALL = f"""
    SELECT extract(epoch FROM max(f.at - p.at))::float8 FROM placed AS p JOIN ({_FIRST}) AS f USING (n)
    WHERE p.at BETWEEN $1 AND $2 AND f.listener <> 'failing'
"""


class Judged(Protocol):
    """What the checker asks."""

    async def sql(self, query: str, *values: object) -> list[Any]: ...

    def calls_files(self) -> list[Path]: ...


@dataclass
class Verdict:
    """What became of everything: counts, and each law that was broken with some of the rows that broke it."""

    committed: int = 0
    deliveries: int = 0
    duplicates: dict[str, int] = field(default_factory=dict)
    dead_letters: int = 0
    calls: dict[str, int] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)


async def come_to_rest(bus: Judged, *, timeout: float) -> None:
    """Wait until everything that was committed is handled and settled; the checker says what is not."""

    async def at_rest() -> bool:
        return not await _rows(bus, f"{UNHANDLED} LIMIT 1") and not await _rows(
            bus, "SELECT 1 FROM pgbus.listener_lag WHERE lag_events > 0 LIMIT 1"
        )

    try:
        await eventually(at_rest, timeout)
    except AssertionError:
        return


async def judge(bus: Judged) -> Verdict:
    verdict = Verdict()
    verdict.committed = await _count(bus, "placed")
    verdict.deliveries = await _count(bus, "handled")
    again = await bus.sql(f"SELECT listener, sum(times - 1)::bigint AS again FROM ({_FIRST}) AS f GROUP BY listener")
    verdict.duplicates = {row["listener"]: row["again"] for row in again}
    verdict.dead_letters = await _count(bus, "pgbus.dead")
    for law, query in LAWS.items():
        rows = await _rows(bus, query)
        if rows:
            shown = "; ".join(", ".join(map(str, row.values())) for row in rows[:SHOWN])
            verdict.broken[law] = f"{len(rows)}: {shown}"
    _judge_calls(bus.calls_files(), verdict)
    return verdict


async def _count(bus: Judged, table: str) -> int:
    [row] = await bus.sql(f"SELECT count(*) AS rows FROM {table}")
    return int(row["rows"])


async def _rows(bus: Judged, query: str) -> list[dict[str, object]]:
    values = [LISTENERS, TRANSACTIONAL, ORDERED]
    wanted = max([number for number in (1, 2, 3) if f"${number}" in query], default=0)
    unused = "".join(f" AND ${number}::text[] IS NOT NULL" for number in range(1, wanted) if f"${number}" not in query)
    found = await bus.sql(f"SELECT * FROM ({query}) AS found WHERE true{unused}", *values[:wanted])
    return [dict(row) for row in found]


def _judge_calls(files: list[Path], verdict: Verdict) -> None:
    """Each call has one ending, and each answer is right."""
    begun: set[int] = set()
    endings: dict[int, list[tuple[str, object]]] = {}
    for file in files:
        for line in file.read_text().splitlines():
            n, outcome, detail = json.loads(line)
            if outcome == "begun":
                begun.add(n)
            else:
                endings.setdefault(n, []).append((outcome, detail))
    outcomes = [ending for one in endings.values() for ending in one]
    verdict.calls = dict(Counter(outcome for outcome, _ in outcomes))
    wrong = [n for n, one in endings.items() for outcome, detail in one if outcome == "answered" and detail != 2 * n]
    laws = {
        "a call has no ending": sorted(begun - set(endings)),
        "a call has more than one ending": [n for n, one in endings.items() if len(one) > 1],
        "a call hangs beyond its timeout": [n for n, one in endings.items() if one[0][0] == "hung"],
        "a call got the answer to another": wrong,
    }
    for law, numbers in laws.items():
        if numbers:
            verdict.broken[law] = f"{len(numbers)}: {numbers[:SHOWN]}"
