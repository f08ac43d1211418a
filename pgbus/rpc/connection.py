"""A caller's session with the database: opened by its first call, and opened again whenever it was lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from pgbus.aio.backoff import Backoff
from pgbus.aio.tasks import end_tasks
from pgbus.config import Config
from pgbus.database.connections import cut, session_closed
from pgbus.database.faults import is_link_error
from pgbus.database.opening import open_session, reopen_session
from pgbus.database.session import Session
from pgbus.database.store import Store

logger = logging.getLogger("pgbus")

# Seconds between tries when the database does not answer. Shorter than a worker's: a caller waits, until its timeout.
LINK_PAUSE = 0.1
LINK_PAUSE_LIMIT = 2.0


class CallerConnection:
    """Runs a caller's statements, and calls `channels[name](payload)` for each notification.

    The statements of a call follow each other, and those of calls at the same time are gathered: a second session
    would never have anything to do. `reopened` is called after every session but the first: what was notified in
    between was heard by nobody.
    """

    def __init__(
        self, config: Config, *, channels: Mapping[str, Callable[[str], None]], reopened: Callable[[], None]
    ) -> None:
        self._config = config
        self._channels = channels
        self._reopened = reopened
        # Replaced by `open` alone, under `_opening`; the old one stays here while it is lost, until there is another.
        self._session: Session | None = None
        self._opening = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None
        self.store = Store(self, namespace=config.namespace)

    @property
    def is_open(self) -> bool:
        """Whether there was a session; the one that there is may be lost."""
        return self._session is not None

    async def open(self) -> None:
        """Have a session that is not known to be lost; raises DatabaseUnreachableError, and SchemaVersionError."""
        async with self._opening:  # calls and the keeper may find at the same time that it is lost
            if self._session is None:
                self._session = await open_session(self._config, channels=self._channels)
                self._keeper = asyncio.create_task(self._keep(), name="pgbus caller")
            elif self._session.lost.is_set():
                self._session = await reopen_session(self._config, channels=self._channels)

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        """Run one statement on the session."""
        session = self._session
        if session is None:
            raise session_closed()
        try:
            return await session.fetch(query, *args)
        except Exception as error:
            if is_link_error(error):  # the driver may not have noticed yet
                session.terminate()
                session.lost.set()
            raise

    async def close(self) -> None:
        """End the session of the caller."""
        if self._keeper:
            await end_tasks(self._keeper)
            self._keeper = None
        if self._session:
            await self._session.close()
            self._session = None

    def abandon(self) -> None:
        """Drop the session of an event loop that was closed with it."""
        if self._session:
            cut(self._session.connection)

    async def _keep(self) -> None:
        backoff = Backoff(LINK_PAUSE, LINK_PAUSE_LIMIT)
        while session := self._session:
            await session.lost.wait()
            session.terminate()
            while session is self._session:  # until someone has opened another one: a call may be quicker than we are
                await asyncio.sleep(backoff.next())
                try:
                    await self.open()
                except Exception as error:  # whatever it is: the calls find out by themselves
                    logger.debug("cannot listen for responses to calls: %s", error)
            backoff.reset()
            self._reopened()
