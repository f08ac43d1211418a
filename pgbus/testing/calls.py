"""Calls of a test: a procedure that one of its buses declares runs in this process, as a worker would run it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from pgbus.bus import Bus
from pgbus.rpc.caller import Caller
from pgbus.rpc.procedures import Procedure
from pgbus.rpc.server import Desk, Running, Server
from pgbus.rpc.wire import ClaimedRequest, Response, to_error


class CallerHere(Caller):
    """Calls the procedures that `buses` declare without a worker or a database; any other as `elsewhere` does."""

    def __init__(self, bus: Bus, *, buses: Sequence[Bus], elsewhere: Caller) -> None:
        super().__init__(bus.config, procedures=bus.registry.procedures)
        self._buses = buses
        self._elsewhere = elsewhere

    async def _call(self, procedure: str, arguments: str, *, timeout: float | None, wait: bool, call_id: UUID) -> str:
        for bus in self._buses:
            if served := await _served(bus, procedure):
                seconds = timeout or served.timeout or self._default_timeout(procedure)
                request = ClaimedRequest(call_id, procedure, arguments, caller="", seconds_left=seconds)
                response = await _Server(bus).respond(request, served)
                if response.result is None:
                    raise to_error(response, procedure=procedure, allowed=self._procedures.errors)
                return response.result
        return await self._elsewhere._call(procedure, arguments, timeout=timeout, wait=wait, call_id=call_id)


async def _served(bus: Bus, name: str) -> Procedure | None:
    """The procedure, if a worker of the bus would serve it; functions that wait for a start may declare it."""
    await bus.registry.hooks.before_worker_start.run_once(plugins=False)
    return bus.registry.procedures.get(name) if "rpcs" in bus.features else None


class _Server(Server):
    """Runs one call: its answerer does not run, and keeps the response."""

    def __init__(self, bus: Bus) -> None:
        no_database: Any = None
        super().__init__(
            no_database,
            config=bus.config,
            telemetry=bus.telemetry,
            hooks=bus.registry.hooks,
            middleware=bus.registry.middleware,
            worker_id=lambda: 0,
            failed=lambda: None,
        )

    async def respond(self, request: ClaimedRequest, procedure: Procedure) -> Response:
        """Run the call; one that is cancelled here is cancelled there."""
        desk = Desk(procedure, slots=1)
        running = self._running[request.call_id] = Running(request, procedure, time.monotonic())
        running.task = asyncio.create_task(self._run(running, desk))
        try:
            await asyncio.shield(running.task)
        except asyncio.CancelledError:
            self._end(running, "cancelled")
            await asyncio.wait([running.task])
            raise
        finally:
            if desk.threads:
                desk.threads.shutdown(wait=False)
        return self._answerer._responses[0]
