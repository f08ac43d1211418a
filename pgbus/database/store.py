"""The engine's statements: a `Store` runs them by name on a connection, a pool or a session.

Only `pgbus.database.statements` calls it; everyone else calls the typed functions there.
"""

from __future__ import annotations

from typing import Any, Protocol

import asyncpg

from pgbus.database import channels
from pgbus.database.sql import Statement, load
from pgbus.database.sql.rights import missing_right


class Runner(Protocol):
    """A connection or a pool."""

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        """Run one statement and return its rows."""
        ...


class Store:
    """Named statements, run on a connection or pool."""

    def __init__(self, runner: Runner, *, namespace: str) -> None:
        self._runner = runner
        self.namespace = namespace
        self.work_channel = channels.work(namespace)

    def statement(self, name: str) -> Statement:
        """A statement by its name."""
        # Here and not when a bus is made: to read and compile them all takes 25 ms, once in a process.
        return load(self.namespace)[name]

    async def fetch(self, name: str, /, **values: object) -> list[Any]:
        """Run a named statement; raises PrivilegeError for one that this user may not run."""
        statement = self.statement(name)
        # No try again here: whether a statement may be sent twice is known to who asked for it.
        try:
            return await self._runner.fetch(statement.asyncpg, *statement.arguments(values))
        except asyncpg.InsufficientPrivilegeError as error:
            raise missing_right(statement, error) from error

    async def fetch_one(self, name: str, /, **values: object) -> Any:
        """Run a named statement that returns one row."""
        return (await self.fetch(name, **values))[0]
