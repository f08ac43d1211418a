"""Runs one call of a procedure to its response: hooks, middleware, threads, deadline, and what it may not return."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from pgbus.aio import threads
from pgbus.aio.returned import finish
from pgbus.causality import Origin, begin, read_headers
from pgbus.codec.payloads import encode
from pgbus.config import Config
from pgbus.database.statements.rpc import CallOutcome, ClaimedRequest, Response
from pgbus.errors import InvalidEventError, InvalidResult
from pgbus.handlers.contexts import CallContext
from pgbus.handlers.failures import Failures
from pgbus.handlers.hooks import Hooks
from pgbus.handlers.middleware import Middleware
from pgbus.messages import differ
from pgbus.rpc.hooks import exchange, rpc_message
from pgbus.rpc.procedures import Procedure, plain_arguments
from pgbus.rpc.wire import answer, encode_arguments, failure
from pgbus.telemetry import Serve

ENDINGS: dict[CallOutcome, str] = {
    "expired": "the procedure still ran at the deadline",
    "cancelled": "the caller took it back",
    "lost": "the worker stopped before the procedure ended",
}


class Running(msgspec.Struct):
    """A call in this process's hands. `pool` has the threads where a plain procedure runs.

    `ending` is the reason, set by the code that cancels the task: without it, a cancellation is the procedure's own
    error. `thread` runs on when the task has ended, and so may the room that the call takes.
    """

    request: ClaimedRequest
    procedure: Procedure
    pool: ThreadPoolExecutor | None
    started: float = msgspec.field(default_factory=time.monotonic)
    task: asyncio.Task[Any] | None = None
    ending: CallOutcome | None = None
    thread: asyncio.Future[threads.Attempt[object]] | None = None

    def end(self, ending: CallOutcome) -> None:
        """Cancel it, unless it is being cancelled for another reason."""
        if self.task and not self.ending:
            self.ending = ending
            self.task.cancel()


class Execution:
    """Runs calls, each in a task that is its `Running.task`."""

    def __init__(self, *, config: Config, hooks: Hooks, middleware: Middleware) -> None:
        self._config = config
        self._hooks = hooks
        self._middleware = middleware
        self._failures = Failures()

    async def respond(self, running: Running) -> Response:
        """Run one call to its response; whatever the procedure raises, including SystemExit, ends here."""
        call_id = running.request.call_id
        begin(Origin(call_id, running.request.headers))
        # By seconds that the database has counted at the claim: the clocks of hosts differ. The time that the answer
        # took to come here is added to the deadline; the caller's own timeout does not wait for it.
        deadline = asyncio.get_running_loop().call_later(running.request.seconds_left, running.end, "expired")
        try:
            response = answer(call_id, await self._result(running))
        except BaseException as error:
            if running.ending:
                response = Response(call_id, running.ending, error=ENDINGS[running.ending])
            else:
                response = failure(call_id, error)
            self._log_failure(running, response, error)
        finally:
            deadline.cancel()
        return response

    def _log_failure(self, running: Running, response: Response, error: BaseException) -> None:
        if response.outcome not in ("failed", "invalid"):
            return
        name, call_id = running.procedure.name, running.request.call_id
        self._failures.log(
            logging.WARNING,
            f"procedure {name}",
            f"failed: {': '.join(filter(None, (response.error_type, response.error)))}",
            error=error,
            fields={
                "procedure": name,
                "call_id": str(call_id),
                "correlation_id": Origin(call_id, running.request.headers).cause.correlation_id,
            },
        )

    async def _result(self, running: Running) -> str:
        """The result as JSON text."""
        if not self._hooks.instruments.all:
            return await self._result_alone(running)
        request = running.request
        with self._hooks.instruments.around(Serve(request.procedure, request.call_id, request.headers)):
            return await self._result_alone(running)

    async def _result_alone(self, running: Running) -> str:
        if self._hooks.on_serving:
            value = await self._between_hooks(running)
        else:
            value = await self._execute(running, running.request.arguments)
        return self._encode(running.procedure, value)

    async def _between_hooks(self, running: Running) -> object:
        """The result as the hooks left it; one that cannot be sent is a failure to them."""
        procedure, text = running.procedure, running.request.arguments
        arguments = plain_arguments(procedure.name, text)
        request = running.request
        message = rpc_message(
            procedure.name,
            plain_arguments(procedure.name, text),
            call_id=request.call_id,
            headers=read_headers(request.headers),
        )

        async def work() -> object:
            final = text
            if differ(message.kwargs, arguments):
                final = encode_arguments(procedure.name, message.kwargs, limit=self._config.rpc_max_payload)
            value = await self._execute(running, final)
            self._encode(procedure, value)
            return value

        before, after = self._hooks.before_rpc_execution, self._hooks.after_rpc_execution
        return await exchange(before, after, message, work)

    async def _execute(self, running: Running, text: str) -> object:
        procedure = running.procedure
        context = CallContext(procedure.name, procedure.decode(text), running.request.call_id, running.request.headers)
        call = self._call_async if procedure.is_async else self._call_in_thread
        return await self._middleware.around(context, functools.partial(call, running, context))()

    async def _call_async(self, running: Running, context: CallContext) -> object:
        return await finish(running.procedure.handler(**context.arguments), context.procedure)

    async def _call_in_thread(self, running: Running, context: CallContext) -> object:
        """Run a plain function in a thread. It cannot be stopped, only given up; its room is taken until it ends."""
        assert running.pool is not None
        visit = threads.Visit()

        def call() -> object:
            return visit.finish(running.procedure.handler(**context.arguments), context.procedure)

        running.thread = threads.start(running.pool, self._middleware.around_plain(context, call))
        try:
            # Shielded: a cancellation ends our wait, and not the future, which tells when the thread gives its room
            # back.
            return (await asyncio.shield(running.thread)).result()
        except asyncio.CancelledError:
            visit.leave()
            raise

    def _encode(self, procedure: Procedure, value: object) -> str:
        try:
            text = encode(value, limit=self._config.rpc_max_payload, field="result")
        except InvalidEventError as error:
            raise InvalidResult(
                f"{procedure.name} returned a value that cannot be sent: {error.reason}", procedure=procedure.name
            ) from error
        procedure.check(text, value)
        return text
