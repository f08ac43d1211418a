"""A PgBouncer in transaction mode, as a process that can be restarted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import asyncpg

from tests.support import eventually
from tests.support.ports import free_port

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")


class Pooler:
    """In front of the database of `target`; `dsn` leads through it."""

    def __init__(self, target: str, ini: Path, *, mode: str = "transaction", size: int = 12) -> None:
        to = urlsplit(target)
        name = to.path.lstrip("/")
        port = free_port()
        self.dsn = f"postgresql://{to.username}@127.0.0.1:{port}/{name}"
        self._ini = ini
        self._process: Process | None = None
        ini.write_text(
            f"[databases]\n{name} = host={to.hostname} port={to.port} user={to.username} "
            f"password={to.password or 'none'}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
            f"pool_mode = {mode}\ndefault_pool_size = {size}\nserver_login_retry = 1\nquery_wait_timeout = 10\n"
            "max_client_conn = 500\n"
        )

    @staticmethod
    def lacks() -> str | None:
        """Why there can be none here, or None."""
        return None if PROGRAM else "needs pgbouncer"

    async def __aenter__(self) -> Self:
        await self.start()
        await eventually(self._answers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        assert PROGRAM is not None
        as_nobody = ["-u", "nobody"] if os.geteuid() == 0 else []  # it refuses to run as root
        with self._ini.open("rb") as settings:
            self._process = await asyncio.create_subprocess_exec(
                PROGRAM, *as_nobody, "/dev/stdin", stdin=settings, stdout=DEVNULL, stderr=DEVNULL
            )

    async def stop(self) -> None:
        """Kill it; its clients' connections break."""
        if self._process and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, "pgbouncer ended"
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            connection = await asyncpg.connect(self.dsn, statement_cache_size=0, timeout=5)
            await connection.close()
            return True
        return False
