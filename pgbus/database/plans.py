"""The plan that a named statement gets in the engine's sessions, without carrying it out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import asyncpg

from pgbus.database.connections import ENGINE_SETTINGS, Connection
from pgbus.database.sql import Statement
from pgbus.database.sql.rights import missing_right

# The statements that run all the time.
LOOKS = ("read_outbox",)
CLAIMS = ("claim_ready", "claim_lanes", "claim_deliveries", "settle_deliveries", "extend_leases", "free_claims")
CALLS = ("claim_requests", "fetch_responses")


async def find_whole_scans(connection: Connection, statement: Statement) -> set[str]:
    """Names of the tables that the statement would read from end to end, as no index serves it.

    Raises PrivilegeError if this user may not run it.
    """
    prepared = f"pgbus_plan_{statement.name}"
    # Those by which the plan is made: the caller's timeouts stay, for a plan waits for a table that is locked.
    planning = {name: value for name, value in ENGINE_SETTINGS.items() if name.startswith("enable_")}
    planning |= {name: ENGINE_SETTINGS[name] for name in ("jit", "plan_cache_mode", "search_path")}
    settings = "; ".join(f"SET LOCAL {name} = '{value}'" for name, value in planning.items())
    await connection.execute(f"PREPARE {prepared} AS {statement.asyncpg}")
    try:
        async with connection.transaction():
            await connection.execute(settings)
            # A generic plan, so the values do not matter.
            values = f"({', '.join(['NULL'] * len(statement.parameters))})" if statement.parameters else ""
            answer = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE {prepared} {values}")
    except asyncpg.InsufficientPrivilegeError as error:
        raise missing_right(statement, error) from error
    finally:
        await connection.execute(f"DEALLOCATE {prepared}")
    return {node["Relation Name"] for node in _nodes(json.loads(answer)[0]["Plan"]) if node["Node Type"] == "Seq Scan"}


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)
