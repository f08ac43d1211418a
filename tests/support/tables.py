"""What the tables hold, as tests compare it."""

import asyncpg


async def state_of(connection: asyncpg.Connection, procedure: str) -> list[str]:
    rows = await connection.fetch(
        "SELECT state FROM pgbus.rpc_calls WHERE procedure = $1 ORDER BY requested_at", procedure
    )
    return [row["state"] for row in rows]


async def has_state(connection: asyncpg.Connection, procedure: str, state: str) -> bool:
    return state in await state_of(connection, procedure)


async def letters(connection: asyncpg.Connection) -> list[tuple[str, str, int]]:
    rows = await connection.fetch("SELECT listener_name, error, attempts FROM pgbus.dead ORDER BY id")
    return [tuple(row) for row in rows]


async def outcomes(connection: asyncpg.Connection) -> list[tuple[int, str]]:
    rows = await connection.fetch("SELECT attempt, outcome FROM pgbus.attempts ORDER BY position, attempt")
    return [tuple(row) for row in rows]
