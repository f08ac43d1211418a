"""The costs of the servers: CPU of all their processes, WAL, and row versions that are dead afterwards (Linux only)."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg

# Seconds.
PATIENCE = 10.0
POLL = 0.05
SESSIONS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
TICK = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Reading:
    """Seconds of CPU, and bytes of WAL, since the servers started."""

    cpu: float
    wal: int

    def since(self, earlier: Reading) -> Reading:
        return Reading(self.cpu - earlier.cpu, self.wal - earlier.wal)


class Meter:
    """Reads what PostgreSQL, and other servers by their process ids, have spent; its own session does not count."""

    def __init__(self, connection: asyncpg.Connection, others: Sequence[int]) -> None:
        self._connection = connection
        self._postmaster = int(_stat(connection.get_server_pid())[1])
        self._others = others

    async def read(self) -> Reading:
        row = await self._connection.fetchrow(
            "SELECT pg_current_wal_insert_lsn() - '0/0' AS wal, array_agg(pid) AS pids FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid()"
        )
        assert row
        return Reading(self._cpu(row["pids"]), int(row["wal"]))

    async def dead_versions(self) -> int:
        """Row versions that updates and deletes of this database have left, whether or not vacuum has been there."""
        # A session reports what it did when it ends, which is some time after its client has left.
        deadline = time.monotonic() + PATIENCE
        while await self._connection.fetchval(SESSIONS):
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(POLL)
        await self._connection.execute("SELECT pg_stat_clear_snapshot()")
        return int(
            await self._connection.fetchval(
                "SELECT coalesce(sum(n_tup_upd + n_tup_del), 0)::bigint FROM pg_stat_user_tables"
            )
        )

    def _cpu(self, living: Sequence[int]) -> float:
        """Of living processes by the scheduler, in nanoseconds; of those that have ended by the clock's ticks."""
        ended = sum(int(one) for one in _stat(self._postmaster)[13:15]) * TICK
        return ended + sum(map(_threads_cpu, (self._postmaster, *living, *self._others)))


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may hold spaces: state first, then the parent's id."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _threads_cpu(pid: int) -> float:
    total = 0
    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile, and its parent counts it
        for thread in Path(f"/proc/{pid}/task").iterdir():
            total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9
