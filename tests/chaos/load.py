"""The publishers and callers of a chaos run, as a process: `python -m tests.chaos.load NUMBER RATE FILE`.

Each publisher takes the next serial number of a key of its own and publishes it with its business row in one
transaction, of which some are rolled back. The beginning and the outcome of every call are lines of FILE. SIGTERM ends
the process once the calls that it has begun are over. LOAD_DSN leads to the database itself, LOAD_POOLED_DSN may lead
through a pooler.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TextIO

import asyncpg
import psycopg

import pgbus
from tests.chaos.workload import PROCEDURE, TOPIC

DIRECT, POOLED = os.environ.get("LOAD_DSN", ""), os.environ.get("LOAD_POOLED_DSN", "")
KEYS = 4
ROLLED_BACK = 0.05
PATIENCE = 10.0
"""Seconds that a client waits for its database; a call waits as long for its answer."""
TAKE_SERIAL = "UPDATE accounts SET serial = serial + 1 WHERE key = {} RETURNING serial"
PLACE = "INSERT INTO placed (n, key, serial) VALUES ({}, {}, {})"
EMIT = "INSERT INTO pgbus.outbox (topic, key, payload) VALUES ($1, $2, $3)"

Place = Callable[[Any, int, str], Awaitable[None]]


class _RolledBack(Exception):
    """A publisher changed its mind: nothing of the transaction may ever be seen."""


class Load:
    """One process's publishers, each with numbers and keys of its own, and its callers."""

    def __init__(self, number: int, *, rate: float, calls: TextIO) -> None:
        self.bus = pgbus.create(DIRECT)
        self.stopping = asyncio.Event()
        self._number = number
        self._pause = 3 / rate
        self._numbers = itertools.count(number * 1_000_000_000 + 1)
        self._chance = random.Random(number)
        self._calls = calls

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._publish("asyncpg", DIRECT, self._by_asyncpg))
                tasks.create_task(self._publish("sql", POOLED, self._by_insert))
                tasks.create_task(self._publish_by_psycopg())
                tasks.create_task(self._call())
        finally:
            await self.bus.close()

    # -------------------------------------------------------------------------------------------------- publishers

    async def _publish(self, way: str, dsn: str, place: Place) -> None:
        while not self.stopping.is_set():
            connection = None
            with contextlib.suppress(Exception):  # whichever it is: the next transaction is of another connection
                connection = await asyncpg.connect(
                    dsn, timeout=PATIENCE, command_timeout=PATIENCE, statement_cache_size=0
                )
                while not self.stopping.is_set():
                    async with asyncio.timeout(PATIENCE):
                        await self._place_once(way, connection, place)
                    await asyncio.sleep(self._pause)
            if connection:
                connection.terminate()
            await asyncio.sleep(0.1)

    async def _place_once(self, way: str, connection: asyncpg.Connection, place: Place) -> None:
        key = self._key(way)
        with contextlib.suppress(_RolledBack):
            async with connection.transaction():
                await place(connection, next(self._numbers), key)
                if self._chance.random() < ROLLED_BACK:
                    raise _RolledBack

    def _key(self, way: str) -> str:
        return f"{self._number}.{way}.{self._chance.randrange(KEYS)}"

    async def _by_asyncpg(self, connection: asyncpg.Connection, n: int, key: str) -> None:
        serial = await connection.fetchval(TAKE_SERIAL.format("$1"), key)
        await connection.execute(PLACE.format("$1", "$2", "$3"), n, key, serial)
        await self.bus.publish({"n": n, "serial": serial}, topic=TOPIC, key=key, using=connection)

    async def _by_insert(self, connection: asyncpg.Connection, n: int, key: str) -> None:
        serial = await connection.fetchval(TAKE_SERIAL.format("$1"), key)
        await connection.execute(PLACE.format("$1", "$2", "$3"), n, key, serial)
        await connection.execute(EMIT, TOPIC, key, json.dumps({"n": n, "serial": serial}))

    async def _publish_by_psycopg(self) -> None:
        while not self.stopping.is_set():
            with contextlib.suppress(Exception):
                await asyncio.to_thread(self._publish_blocking)
            await asyncio.sleep(0.1)

    def _publish_blocking(self) -> None:
        limits = f"{int(PATIENCE)}s"
        with psycopg.connect(DIRECT, connect_timeout=int(PATIENCE), tcp_user_timeout=10_000, autocommit=True) as own:
            own.execute(f"SET statement_timeout = '{limits}'")
            while not self.stopping.is_set():
                n, key = next(self._numbers), self._key("psycopg")
                with contextlib.suppress(_RolledBack), own.transaction():
                    found = own.execute(TAKE_SERIAL.format("%s"), [key]).fetchone()
                    assert found
                    own.execute(PLACE.format("%s", "%s", "%s"), [n, key, found[0]])
                    self.bus.publish_sync({"n": n, "serial": found[0]}, topic=TOPIC, key=key, using=own)
                    if self._chance.random() < ROLLED_BACK:
                        raise _RolledBack
                time.sleep(self._pause)

    # ----------------------------------------------------------------------------------------------------- callers

    async def _call(self) -> None:
        async with asyncio.TaskGroup() as calls:
            while not self.stopping.is_set():
                calls.create_task(self._call_once(next(self._numbers)))
                await asyncio.sleep(3 * self._pause)

    async def _call_once(self, n: int) -> None:
        self._write(n, "begun")
        try:
            async with asyncio.timeout(3 * PATIENCE):
                answer = await self.bus.call(PROCEDURE, {"n": n}, timeout=PATIENCE)
        except TimeoutError as error:  # also pgbus's own for a call
            self._write(n, "failed" if isinstance(error, pgbus.PgbusError) else "hung")
        except Exception as error:  # whichever it is: the caller was told
            self._write(n, "failed", type(error).__name__)
        else:
            self._write(n, "answered", answer)

    def _write(self, n: int, outcome: str, detail: object = None) -> None:
        self._calls.write(json.dumps([n, outcome, detail]) + "\n")
        self._calls.flush()


def keys_of(number: int) -> list[str]:
    """The keys of one process's publishers."""
    return [f"{number}.{way}.{one}" for way in ("asyncpg", "sql", "psycopg") for one in range(KEYS)]


async def main(number: int, rate: float, file: Path) -> None:
    with file.open("w") as calls:
        load = Load(number, rate=rate, calls=calls)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, load.stopping.set)
        await load.run()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])))
