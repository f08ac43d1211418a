"""The service that the chaos tests run as processes of their own, by `pgbus run tests.chaos.service`.

Its handlers tell what they do through tables, over connections of their own (CHAOS_DSN), and wait where the test
holds the gate: an advisory lock.
"""

import asyncio
import os
import signal

import asyncpg
import psycopg

import pgbus
from pgbus.leader import leader, slumber

DSN = os.environ["CHAOS_DSN"]
PID = os.getpid()
BLOCKS = os.environ.get("CHAOS_BLOCKS") == "1"
# Who asks which process leads does not meet a bus that sleeps, however slow the machine is.
slumber.QUIET = float(os.environ.get("CHAOS_QUIET", "300"))

if silence := os.environ.get("CHAOS_SILENCE"):
    limits = ("idle_session_timeout", "idle_in_transaction_session_timeout", "tcp_user_timeout")
    leader.LEADER_SETTINGS |= dict.fromkeys(limits, silence)

bus = pgbus.create()
_pool: asyncpg.Pool | None = None
_opening = asyncio.Lock()


async def note(table: str, number: int) -> None:
    global _pool
    async with _opening:
        if _pool is None:
            _pool = await asyncpg.create_pool(DSN, min_size=0, max_size=4)
    for _ in range(100):
        try:
            await _pool.execute(f"INSERT INTO {table} (n, pid) VALUES ($1, $2)", number, PID)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await asyncio.sleep(0.1)  # the test has crashed the server: try again, as any client would
        else:
            return


async def pass_gate() -> None:
    connection = await asyncpg.connect(DSN)
    try:
        await connection.execute("SELECT pg_advisory_lock_shared(4711)")
    finally:
        connection.terminate()


def pass_gate_blocking() -> None:
    with psycopg.connect(DSN) as connection:
        connection.execute("SELECT pg_advisory_lock_shared(4711)")


@bus.listener("chaos.recorded", name="record", start="beginning")
async def record(event: dict[str, int]) -> None:
    await note("handled", event["n"])


@bus.listener("chaos.gated", name="gated", start="beginning", concurrency=5)
async def gated(event: dict[str, int]) -> None:
    await note("started", event["n"])
    await pass_gate()
    await note("handled", event["n"])


@bus.listener("chaos.threaded", name="threaded", start="beginning", concurrency=2)
def threaded(event: dict[str, int]) -> None:
    with psycopg.connect(DSN) as connection:
        connection.execute("INSERT INTO started (n, pid) VALUES (%s, %s)", (event["n"], PID))
    pass_gate_blocking()
    with psycopg.connect(DSN) as connection:
        connection.execute("INSERT INTO handled (n, pid) VALUES (%s, %s)", (event["n"], PID))


@bus.listener("chaos.hanging", name="hanging", start="beginning")
async def hanging(event: dict[str, int]) -> None:
    await note("started", event["n"])
    pass_gate_blocking()  # what an async handler must not do
    await note("handled", event["n"])


@bus.listener("chaos.effect", name="effect", start="beginning", transactional=True)
async def effect(event: dict[str, int], connection: asyncpg.Connection) -> None:
    await connection.execute("INSERT INTO effects (n, pid) VALUES ($1, $2)", event["n"], PID)


@bus.listener("chaos.ordered", name="ordered", start="beginning", ordered=True)
async def ordered(event: dict[str, int]) -> None:
    await note("started", event["n"])
    await note("handled", event["n"])


@bus.listener("chaos.poisoned", name="poisoned", start="beginning", concurrency=5)
async def poisoned(event: dict[str, int]) -> None:
    if event.get("poison"):
        os.kill(PID, signal.SIGKILL)
    await asyncio.sleep(0.01)  # so that neighbours are in hand when the poison kills
    await note("handled", event["n"])


@bus.listener("chaos.poisoned", name="bystander", start="beginning", concurrency=2)
async def bystander(event: dict[str, int]) -> None:
    await asyncio.sleep(0.02)
    await note("effects", event["n"])


@bus.listener("chaos.blocking", name="blocking", start="beginning", batch_size=1)
async def blocking(event: dict[str, int]) -> None:
    await note("started", event["n"])
    if BLOCKS:
        pass_gate_blocking()  # and with us, the whole event loop waits
    await note("handled", event["n"])


async def handle_gated(number: int) -> None:
    await note("started", number)
    await pass_gate()
    await note("handled", number)


@bus.listener("chaos.stopped", name="one_by_one", start="beginning", concurrency=1, batch_size=15)
async def one_by_one(event: dict[str, int]) -> None:
    await handle_gated(event["n"])


@bus.listener("chaos.stopped", name="laned", start="beginning", ordered=True, batch_size=15)
async def laned(event: dict[str, int]) -> None:
    await handle_gated(event["n"])


@bus.listener("chaos.stopped", name="together", start="beginning", batch=True, concurrency=1, batch_size=15)
async def together(events: list[dict[str, int]]) -> None:
    await handle_gated(events[0]["n"])
    if len(events) > 1:
        raise ValueError("one by one, please")


@bus.listener("chaos.stopped", name="gated_effect", start="beginning", transactional=True, concurrency=1, batch_size=15)
async def gated_effect(event: dict[str, int], connection: asyncpg.Connection) -> None:
    await handle_gated(event["n"])
    await connection.execute("INSERT INTO effects (n, pid) VALUES ($1, $2)", event["n"], PID)
