"""Which procedures a live worker serves: what a caller believes of it, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from pgbus.config import Config
from pgbus.database.connections import unreachable
from pgbus.database.faults import is_link_error
from pgbus.database.statements import rpc
from pgbus.rpc.connection import CallerConnection

# Seconds for which a procedure that is served counts as served. If it is not any more, the call finds out soon.
TTL = 1.0


class Service(msgspec.Struct, frozen=True):
    """The rows about a procedure at loop time `seen_at`; `timeout` is the declared one, in seconds."""

    seen_at: float
    is_served: bool
    timeout: float | None


class Directory:
    """Looks procedures up for one caller."""

    def __init__(self, config: Config, *, connection: CallerConnection) -> None:
        self._config = config
        self._connection = connection
        # Held over a look: what waits for it finds the answer in `_services`.
        self._looking = asyncio.Lock()
        self._services: dict[str, Service] = {}

    async def find(self, procedure: str, *, since: float) -> Service:
        """Whether it is served; that it is not is believed only if it was seen since the call began, at `since`."""
        if service := self._lately(procedure, since=since):
            return service
        async with self._looking:  # calls at the same time share one look
            if service := self._lately(procedure, since=since):
                return service
            # From before the look: a call that begins during it may not believe that nobody serves the procedure.
            seen_at = asyncio.get_running_loop().time()
            found = await self._look_up(procedure)
            service = Service(seen_at, found.is_served, found.timeout)
            self._services[procedure] = service
            return service

    async def find_served(self, procedures: Iterable[str]) -> set[str]:
        """Those of these procedures that a live worker serves at this moment."""
        found = await rpc.find_servers(self._connection.store, list(set(procedures)))
        return {served.procedure for served in found if served.is_served}

    def _lately(self, procedure: str, *, since: float) -> Service | None:
        service = self._services.get(procedure)
        if service is None:
            return None
        limit = asyncio.get_running_loop().time() - TTL if service.is_served else since
        return service if service.seen_at >= limit else None

    async def _look_up(self, procedure: str) -> rpc.Served:
        store = self._connection.store
        try:
            found = await rpc.find_servers(store, [procedure])
        except Exception as error:
            if not is_link_error(error):
                raise
            try:  # the session may have died long ago; a new one tells whether the database lives
                await self._connection.open()
                found = await rpc.find_servers(store, [procedure])
            except Exception as again:
                raise unreachable(self._config, again) from error
        return found[0] if found else rpc.Served(procedure, is_served=False, timeout=None)
