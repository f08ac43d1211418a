"""The plan of a named statement, as it was carried out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg

from pgbus.database.sql import load

BIG_TABLES = re.compile(r"(outbox|deliveries|schedule_runs|received|inbox|(events|history)(_p\d+)?)$")


@dataclass(frozen=True, slots=True)
class Node:
    """One step that was really taken, with the pages that it touched itself."""

    kind: str
    relation: str | None
    index: str | None
    loops: int
    rows: float
    removed: float
    pages: int


class Plan:
    """All steps of one execution; those that were never executed are left out."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        self.nodes = list(_nodes(answer["Plan"]))
        self.milliseconds: float = answer["Execution Time"]
        self.is_compiled = "JIT" in answer
        """Whether the server found it long enough to compile it first, which takes longer than any look-up."""

    @property
    def pages(self) -> int:
        """Pages touched, a page that was touched again counted again."""
        return sum(node.pages for node in self.nodes)

    @property
    def indexes(self) -> set[str]:
        return {node.index for node in self.nodes if node.index}

    @property
    def relations(self) -> set[str]:
        """What was read; not what was only written."""
        return {node.relation for node in self.nodes if node.relation and "Scan" in node.kind}

    @property
    def steps(self) -> float:
        """Rows that came out of all steps, or were thrown away by them: the work that was done."""
        return sum(node.rows + node.removed for node in self.nodes)

    @property
    def scanned_whole(self) -> set[str]:
        """Big tables that were read from one end to the other."""
        scanned = (node.relation or "" for node in self.nodes if node.kind == "Seq Scan" and node.pages)
        return {relation for relation in scanned if BIG_TABLES.match(relation)}


class Plans:
    """Explains named statements on a connection that has the engine's settings."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self._statements = load()

    async def explain(self, name: str, /, **values: object) -> Plan:
        """Carry out a statement with the plan that the engine would get; no big table may be read from end to end."""
        plan = await self.carry_out(name, values)
        assert plan.scanned_whole == set(), f"{name} reads a whole table"
        return plan

    async def carry_out(self, name: str, values: Mapping[str, object]) -> Plan:
        """Carry out a statement, and tell what happened."""
        statement = self._statements[name]
        literals = ", ".join(literal(value) for value in statement.arguments(values))
        await self.connection.execute(f"PREPARE explained AS {statement.asyncpg}")
        call = f"EXECUTE explained ({literals})" if literals else "EXECUTE explained"
        answer = await self.connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {call}")
        await self.connection.execute("DEALLOCATE explained")
        return Plan(json.loads(answer)[0])

    async def ask(self, query: str) -> Plan:
        """Carry out what somebody asks at a terminal."""
        answer = await self.connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}")
        return Plan(json.loads(answer)[0])


def literal(value: object) -> str:
    """A value as SQL, of a type that its parameter's cast decides."""
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return _quoted("{" + ",".join("NULL" if one is None else json.dumps(str(one)) for one in value) + "}")
    return _quoted(str(value))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _nodes(plan: Mapping[str, Any]) -> Iterator[Node]:
    children = plan.get("Plans", [])
    loops = plan["Actual Loops"]
    if loops:
        yield Node(
            kind=plan["Node Type"],
            relation=plan.get("Relation Name"),
            index=plan.get("Index Name"),
            loops=loops,
            rows=plan["Actual Rows"] * loops,
            removed=loops
            * sum(plan.get(f"Rows Removed by {how}", 0) for how in ("Filter", "Join Filter", "Index Recheck")),
            # What a CTE touches is told by its own plan, and again by whoever reads the CTE first.
            pages=0 if plan["Node Type"] == "CTE Scan" else max(0, _pages(plan) - sum(map(_pages, children))),
        )
    for child in children:
        yield from _nodes(child)


def _pages(plan: Mapping[str, Any]) -> int:
    return int(plan.get("Shared Hit Blocks", 0) + plan.get("Shared Read Blocks", 0))
