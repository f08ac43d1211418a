"""Calls of a test: a procedure that one of its buses declares runs in this process, as a worker would run it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pgbus.bus import Bus
from pgbus.database.statements.rpc import ClaimedRequest, Request, Response
from pgbus.rpc.caller import Caller
from pgbus.rpc.execution import Execution, Running
from pgbus.rpc.procedures import Procedure
from pgbus.rpc.wire import to_error


class CallerHere(Caller):
    """Calls the procedures that `buses` declare without a worker or a database; any other as `elsewhere` does."""

    def __init__(self, bus: Bus, *, buses: Sequence[Bus], elsewhere: Caller) -> None:
        super().__init__(bus.config, procedures=bus.registry.procedures)
        self._buses = buses
        self._elsewhere = elsewhere

    async def _call(self, request: Request, *, timeout: float | None, wait: bool) -> str:
        procedure = request.procedure
        for bus in self._buses:
            if served := await _served(bus, procedure):
                seconds = timeout or served.timeout or self._default_timeout(procedure)
                claimed = ClaimedRequest(
                    request.call_id, procedure, request.arguments, request.headers, caller="", seconds_left=seconds
                )
                response = await _respond(bus, claimed, served)
                if response.result is None:
                    raise to_error(response, procedure=procedure, allowed=self._procedures.errors)
                return response.result
        return await self._elsewhere._call(request, timeout=timeout, wait=wait)


async def _served(bus: Bus, name: str) -> Procedure | None:
    """The procedure, if a worker of the bus would serve it; functions that wait for a start may declare it."""
    await bus.registry.hooks.before_worker_start.run_once(plugins=False)
    return bus.registry.procedures.get(name) if "rpcs" in bus.features else None


async def _respond(bus: Bus, request: ClaimedRequest, procedure: Procedure) -> Response:
    """Run the call; one that is cancelled here is cancelled there."""
    registry = bus.registry
    execution = Execution(config=bus.config, hooks=registry.hooks, middleware=registry.middleware)
    threads = None if procedure.is_async else ThreadPoolExecutor(1, thread_name_prefix="pgbus-procedure")
    running = Running(request, procedure, threads)
    response = asyncio.ensure_future(execution.respond(running))
    running.task = response
    try:
        return await asyncio.shield(response)
    except asyncio.CancelledError:
        running.end("cancelled")
        await asyncio.wait([response])
        raise
    finally:
        if threads:
            threads.shutdown(wait=False)
