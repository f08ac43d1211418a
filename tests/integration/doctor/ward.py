"""A bus that is examined, and ways to make it ill."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import asyncpg

from pgbus.config import Config
from pgbus.doctor import Finding, examine
from pgbus.doctor.examination import GROUPS
from tests.support.rows import Rows


@dataclass
class Ward:
    """A database with a worker and a listener, and a connection of a superuser to it."""

    dsn: str
    connection: asyncpg.Connection
    worker_id: int = 0
    listener_id: int = 0

    @property
    def rows(self) -> Rows:
        return Rows(self.connection)

    async def settle_in(self) -> None:
        self.worker_id = await self.rows.worker("worker-1", "mailer", leads=True)
        self.listener_id = await self.rows.listener("mailer", "orders.*")
        await self.rows.event(1)

    async def finding(self, check: str, **settings: Any) -> Finding:
        """What the doctor says of one check."""
        group = next(group for group in GROUPS if check in [one.name for one in group.checks])
        found = await examine(Config(dsn=self.dsn, **settings), groups=[group])
        return next(one for one in found.findings if one.check == check)

    async def run(self, *statements: str) -> None:
        for statement in statements:
            await self.connection.execute(statement)
