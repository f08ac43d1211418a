"""The service that `test_processes` runs by `pgbus run`; its procedures wait while the test holds a lock."""

import os

import asyncpg
import psycopg

import pgbus

DSN = os.environ["PGBUS_DSN"]

bus = pgbus.create()


@bus.procedure("process.pid")
async def pid() -> int:
    return os.getpid()


@bus.procedure("process.wait", timeout=600)
async def wait() -> int:
    connection = await asyncpg.connect(DSN)
    try:
        await connection.execute("SELECT pg_advisory_lock_shared(4711)")
    finally:
        await connection.close()
    return os.getpid()


@bus.procedure("process.block", timeout=600)
def block() -> int:
    with psycopg.connect(DSN) as connection:
        connection.execute("SELECT pg_advisory_lock_shared(4711)")
    return os.getpid()
