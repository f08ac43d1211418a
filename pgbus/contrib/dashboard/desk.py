"""The dashboard's connections to the database, and what its pages share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from pgbus.admin import Admin
from pgbus.config import Config
from pgbus.contrib.dashboard.checkup import Checkup
from pgbus.contrib.dashboard.chronicle import Chronicler
from pgbus.contrib.dashboard.live import Feed
from pgbus.database.faults import DATABASE_ERRORS
from pgbus.database.statements.doctor import read_clock

SEATS = 4
"""Connections that are open at once; more requests wait for one of them."""

ANSWER = 2.0
"""Seconds in which a kept connection must answer."""


class Desk:
    """Keeps up to four connected Admins, for requests that follow each other, and what is read once for all of them."""

    def __init__(self, config: Config) -> None:
        self.chronicler = Chronicler()
        self.checkup = Checkup(config)
        self.feed = Feed()
        self._config = config
        self._free: list[tuple[Admin, AsyncExitStack]] = []
        self._seats = asyncio.Semaphore(SEATS)

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[Admin]:
        """An Admin for one request."""
        async with self._seats:
            admin, opened = await self._take() or await self._open()
            try:
                yield admin
            finally:
                self._free.append((admin, opened))

    async def close(self) -> None:
        """End what runs for the pages, and close all connections that are not in use."""
        await self.feed.close()
        await self.checkup.close()
        while self._free:
            await _close(self._free.pop()[1])

    async def _take(self) -> tuple[Admin, AsyncExitStack] | None:
        """A kept Admin whose connection answers: the server may have ended it since it was used last."""
        while self._free:
            admin, opened = self._free.pop()
            with suppress(*DATABASE_ERRORS):
                async with asyncio.timeout(ANSWER):
                    await read_clock(admin.store)
                return admin, opened
            await _close(opened)
        return None

    async def _open(self) -> tuple[Admin, AsyncExitStack]:
        opened = AsyncExitStack()
        return await opened.enter_async_context(Admin.connect(self._config)), opened


async def _close(opened: AsyncExitStack) -> None:
    with suppress(*DATABASE_ERRORS):
        await opened.aclose()
