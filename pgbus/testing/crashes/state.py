"""The writes of a handler in a database, and the differences between two states."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pgbus.database.connections import Connection
from pgbus.database.sql import quote_identifier
from pgbus.testing.crashes.report import Finding, Kind, Point

Row: TypeAlias = Mapping[str, str]
"""Values as JSON by the names of their columns."""

EVENTS = "events"

_TABLES = """
SELECT n.nspname, c.relname,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_index AS i
             JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
             WHERE i.indrelid = c.oid AND i.indisprimary) AS key
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND n.nspname <> ALL ($1::text[]) AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY 1, 2
"""
_SEQUENCES = """
SELECT n.nspname, c.relname
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'S' AND n.nspname <> ALL ($1::text[])
"""
# Far enough that no number is met by both runs.
_GAP = 100_000


@dataclass(frozen=True, slots=True)
class State:
    """A state: the rows of each table, the events, the effects, and the error of the dead letter, if there is one."""

    tables: Mapping[str, Sequence[Row]]
    keys: Mapping[str, frozenset[str]]
    effects: Sequence[str] = ()
    dead: Sequence[str] = field(default=())


async def read_state(
    connection: Connection, *, namespaces: Sequence[str], own: str, published: str, listener_name: str
) -> State:
    """Everything that the application has in this database, and what was published in the namespace `own`.

    `published`: id of the event that the test has published, which is left out.
    """
    tables: dict[str, Sequence[Row]] = {}
    keys: dict[str, frozenset[str]] = {}
    for schema, table, key in await connection.fetch(_TABLES, list(namespaces)):
        rows = await connection.fetch(
            f"SELECT to_jsonb(t)::text FROM {quote_identifier(schema)}.{quote_identifier(table)} AS t"  # noqa: S608
        )
        tables[f"{schema}.{table}"] = [_row(json.loads(text)) for (text,) in rows]
        keys[f"{schema}.{table}"] = frozenset(key)
    bus = quote_identifier(own)
    events = await connection.fetch(
        f"SELECT topic, key, payload::text FROM {bus}.events WHERE event_id <> $1::text::uuid",  # noqa: S608
        published,
    )
    tables[EVENTS] = [_row({"topic": topic, "key": key, **_parts(payload)}) for topic, key, payload in events]
    keys[EVENTS] = frozenset()
    dead = await connection.fetch(f"SELECT error FROM {bus}.dead WHERE listener_name = $1", listener_name)  # noqa: S608
    return State(tables, keys, dead=[error for (error,) in dead])


async def advance_sequences(connection: Connection, *, namespaces: Sequence[str]) -> None:
    """Let every number of the application's sequences be another one from now on, as after a crash."""
    for schema, sequence in await connection.fetch(_SEQUENCES, list(namespaces)):
        name = f"{quote_identifier(schema)}.{quote_identifier(sequence)}"
        await connection.execute(f"SELECT setval($1::regclass, last_value + {_GAP}) FROM {name}", name)  # noqa: S608


def _row(values: Mapping[str, Any]) -> Row:
    return {name: json.dumps(value, sort_keys=True) for name, value in values.items()}


def _parts(payload: str) -> Mapping[str, Any]:
    """The payload's fields as columns, so that one that changes from run to run can be left out."""
    decoded = json.loads(payload)
    if not isinstance(decoded, dict):
        return {"payload": decoded}
    return {f"payload.{name}": value for name, value in decoded.items()}


# --------------------------------------------------------------------------------------------------------- comparing


class Reference:
    """The state after undisturbed runs. A column in which two of them differ is ignored: ids, instants."""

    def __init__(self, one: State, other: State) -> None:
        self._state = one
        self._steady = {table: _steady_columns(rows, other.tables.get(table, ())) for table, rows in one.tables.items()}

    def differences(self, state: State, *, point: Point, may_double: Sequence[str]) -> Iterator[Finding]:
        """Return the differences of another state, after a crash at `point`."""
        for error in state.dead:
            yield Finding(point, "dead", EVENTS, _last_words(error))
        for table, rows in state.tables.items():
            expected = [self._projected(table, row) for row in self._state.tables.get(table, ())]
            found = [self._projected(table, row) for row in rows]
            for kind, detail in _compare(expected, found, key=state.keys[table] & self._steady.get(table, frozenset())):
                yield Finding(point, kind, table, detail)
        for effect, times in _difference(state.effects, self._state.effects):
            name = effect.partition("(")[0]
            if times < 0:
                yield Finding(point, "lost", name, effect)
            elif effect not in self._state.effects:
                yield Finding(point, "changed", name, effect)
            elif name not in may_double:
                yield Finding(point, "doubled", name, effect)

    def _projected(self, table: str, row: Row) -> Row:
        steady = self._steady.get(table)
        return row if steady is None else {name: value for name, value in row.items() if name in steady}


def _last_words(error: str) -> str:
    """The exception of a traceback, without the places that it came through."""
    lines = error.strip().splitlines()
    places = [number for number, line in enumerate(lines) if line.startswith(" ")]
    return " ".join(lines[places[-1] + 1 :] if places else lines) or "without an error"


def _steady_columns(rows: Sequence[Row], others: Sequence[Row]) -> frozenset[str]:
    """The columns that hold the same values in both."""
    names = {name for row in (*rows, *others) for name in row}
    return frozenset(
        name for name in names if Counter(row.get(name) for row in rows) == Counter(row.get(name) for row in others)
    )


def _difference(found: Sequence[str], expected: Sequence[str]) -> Iterator[tuple[str, int]]:
    counts = Counter(found)
    counts.subtract(expected)
    return ((one, times) for one, times in counts.items() if times)


def _compare(expected: Sequence[Row], found: Sequence[Row], *, key: frozenset[str]) -> Iterator[tuple[Kind, str]]:
    """Each difference between two tables: a row too many, one too few, or one with other values."""
    known = set(map(_text, expected))
    rows = {_text(row): row for row in (*expected, *found)}
    extra: list[Row] = []
    missing: list[Row] = []
    for text, times in _difference([_text(row) for row in found], [_text(row) for row in expected]):
        if times > 0 and text in known:
            yield "doubled", text
        elif times > 0:
            extra.append(rows[text])
        else:
            missing.append(rows[text])
    for row in extra:
        match = next((one for one in missing if key and all(one.get(name) == row.get(name) for name in key)), None)
        if match is None and len(extra) == len(missing) == 1:
            match = missing[0]
        if match is None:
            yield "doubled", _text(row)
        else:
            missing.remove(match)
            yield "changed", f"{_text(row)} instead of {_text(match)}"
    for row in missing:
        yield "lost", _text(row)


def _text(row: Row) -> str:
    return "{" + ", ".join(f"{name}: {value}" for name, value in sorted(row.items())) + "}"
