"""The service of a chaos run, by `pgbus run tests.chaos.workload`, and the business tables that it shares with `load`.

Its handlers write a row for each event that they handle and catch nothing: where the database is away, they fail, as a
user's handlers would. CHAOS_DSN is the address of the handlers' own connections.
"""

from __future__ import annotations

import asyncio
import os

import asyncpg
import psycopg

import pgbus

TOPIC = "chaos.placed"
PROCEDURE = "chaos.double"
FIRST_TRY_FAILS = 20
"""Every how many events the listener `failing` fails at the first attempt."""
ALWAYS_DEAD = 97
"""Every how many events it gives up."""

TABLES = """
CREATE TABLE accounts (key text PRIMARY KEY, serial bigint NOT NULL DEFAULT 0);
CREATE TABLE placed (n bigint PRIMARY KEY, key text NOT NULL, serial bigint NOT NULL,
                     at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE INDEX ON placed (at);
CREATE TABLE handled (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, listener text NOT NULL, n bigint NOT NULL,
                      pid integer NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE INDEX ON handled (n);
CREATE INDEX ON handled (at);
CREATE TABLE ticked (due_at timestamptz NOT NULL, pid integer NOT NULL);
CREATE TABLE served (n bigint NOT NULL, pid integer NOT NULL);
GRANT ALL ON ALL TABLES IN SCHEMA public TO chaos_app;
"""
LISTENERS = ("plain", "batched", "failing", "exact", "ordered", "ordered_exact")
TRANSACTIONAL = ("exact", "ordered_exact")
ORDERED = ("ordered", "ordered_exact")

_PID = os.getpid()

bus = pgbus.create()
_pool: asyncpg.Pool | None = None
_opening = asyncio.Lock()


async def own_pool() -> asyncpg.Pool:
    """The handlers' own connections, opened by the first that asks."""
    global _pool
    async with _opening:
        if _pool is None:
            # As many as the handlers need where each answer takes a tenth of a second; with fewer, they wait for each
            # other, and that would be measured.
            _pool = await asyncpg.create_pool(
                os.environ["CHAOS_DSN"], min_size=0, max_size=12, command_timeout=5, timeout=5, statement_cache_size=0
            )
    return _pool


def insert(listener: str, *numbers: int) -> str:
    """Without parameters, so that it is one message and one answer through a pooler and a proxy."""
    rows = ", ".join(f"('{listener}', {int(number)}, {_PID})" for number in numbers)
    return f"INSERT INTO handled (listener, n, pid) VALUES {rows}"


async def note(listener: str, *numbers: int) -> None:
    await (await own_pool()).execute(insert(listener, *numbers))


@bus.listener(TOPIC, name="plain", start="beginning")
async def plain(event: dict[str, int]) -> None:
    await note("plain", event["n"])


@bus.listener(TOPIC, name="batched", start="beginning", batch=True)
async def batched(events: list[dict[str, int]]) -> None:
    await note("batched", *(event["n"] for event in events))


@bus.listener(TOPIC, name="failing", start="beginning", retry=pgbus.RetryPolicy(max_attempts=25, base_delay=0.2))
async def failing(event: dict[str, int], context: pgbus.Context) -> None:
    if event["n"] % ALWAYS_DEAD == 0:
        raise pgbus.Dead("a number that nobody wants")
    if event["n"] % FIRST_TRY_FAILS == 0 and context.attempt == 1:
        raise ValueError("at the first attempt")
    await note("failing", event["n"])


@bus.listener(TOPIC, name="exact", start="beginning", transactional=True)
async def exact(event: dict[str, int], connection: asyncpg.Connection) -> None:
    await connection.execute(insert("exact", event["n"]))


@bus.listener(TOPIC, name="ordered", start="beginning", ordered=True)
async def ordered(event: dict[str, int]) -> None:
    await note("ordered", event["n"])


@bus.listener(TOPIC, name="ordered_exact", start="beginning", ordered=True, transactional=True)
def ordered_exact(event: dict[str, int], connection: psycopg.Connection) -> None:
    connection.execute(insert("ordered_exact", event["n"]).encode())


@bus.client.every(seconds=1, name="tick", missed="skip")
async def tick(context: pgbus.TaskContext) -> None:
    await (await own_pool()).execute("INSERT INTO ticked (due_at, pid) VALUES ($1, $2)", context.due_at, _PID)


@bus.procedure(PROCEDURE)
async def double(n: int) -> int:
    await (await own_pool()).execute("INSERT INTO served (n, pid) VALUES ($1, $2)", n, _PID)
    return 2 * n
