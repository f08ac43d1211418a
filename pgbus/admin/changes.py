"""The transactions in which operators change something."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

from pgbus.database.migrate.sessions import Connection
from pgbus.database.statements import sequencer
from pgbus.database.store import Store

# Begins a transaction; once it is committed, the workers read listeners and schedules again.
Change: TypeAlias = Callable[[], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def change_on(connection: Connection, store: Store) -> AsyncIterator[None]:
    """A `Change` on a connection, whose statements `store` runs."""
    async with connection.transaction():
        yield
        await sequencer.notify_workers(store, "reload")
