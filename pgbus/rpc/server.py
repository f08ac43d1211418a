"""The server's side: takes requests while there is room, runs the procedures, and answers in batches.

claimer   takes requests of the procedures that have room and may have work
answerer  writes the responses
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import UUID

from pgbus.aio import threads
from pgbus.aio.clock import now
from pgbus.aio.returned import finish
from pgbus.aio.tasks import call_on_failure, end_tasks, failure_of
from pgbus.codec.json import encode
from pgbus.config import Config
from pgbus.database.store import Store
from pgbus.database.tries import LINK_PAUSE_LIMIT, Tries
from pgbus.errors import InvalidEventError, InvalidResult
from pgbus.handlers.contexts import CallContext
from pgbus.handlers.hooks import Hooks
from pgbus.handlers.middleware import Middleware
from pgbus.messages import differ
from pgbus.rpc.answerer import Answerer
from pgbus.rpc.hooks import exchange, rpc_message
from pgbus.rpc.procedures import Procedure, plain_arguments
from pgbus.rpc.wire import CallOutcome, ClaimedRequest, Response, answer, encode_arguments, failure, split_ids
from pgbus.telemetry import CallEnded, CallStarted, Telemetry

logger = logging.getLogger("pgbus")

# Cancellations remembered of calls that are not ours, or not yet: one may overtake the claim's own rows.
REMEMBERED_CANCELLATIONS = 1_000

ENDINGS: dict[CallOutcome, str] = {
    "expired": "the procedure still ran at the deadline",
    "cancelled": "the caller took it back",
    "lost": "the worker stopped before the procedure ended",
}


@dataclass(slots=True)
class Running:
    """A call in this process's hands; `ending` says why its task was cancelled, if it was."""

    request: ClaimedRequest
    procedure: Procedure
    started: float
    task: asyncio.Task[None] | None = None
    ending: CallOutcome | None = None
    thread: asyncio.Future[threads.Attempt[object]] | None = None


class Desk:
    """The room of one procedure."""

    __slots__ = ("busy", "may_have_work", "procedure", "slots", "threads")

    def __init__(self, procedure: Procedure, *, slots: int) -> None:
        self.procedure = procedure
        self.slots = slots
        self.busy = 0
        self.may_have_work = True
        # Threads of its own, which start when they are needed: a procedure that blocks on a call to another one does
        # not take the thread that its answer needs.
        self.threads = None if procedure.is_async else ThreadPoolExecutor(slots, thread_name_prefix="pgbus-procedure")

    @property
    def room(self) -> int:
        """How many calls may be claimed now."""
        return self.slots - self.busy if self.may_have_work else 0


class Server:
    """Serves procedures in one worker.

    `worker_id` is 0 while the worker has no session: without it a worker counts as dead, and so would its calls.
    `failed` is called when an error ends one of the loops, and `failure` tells which.
    """

    def __init__(
        self,
        store: Store,
        *,
        config: Config,
        telemetry: Telemetry,
        hooks: Hooks,
        middleware: Middleware,
        worker_id: Callable[[], int],
        failed: Callable[[], None],
    ) -> None:
        self._store = store
        self._failed = failed
        self._hooks = hooks
        self._middleware = middleware
        self._config = config
        self._telemetry = telemetry
        self._desks: dict[str, Desk] = {}
        self._checked: set[str] = set()
        self._running: dict[UUID, Running] = {}
        self._cancellations: deque[UUID] = deque(maxlen=REMEMBERED_CANCELLATIONS)
        self._worker_id = worker_id
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._answerer = Answerer(store, worker=config.process_name, written=self._idle.set)
        self._tasks: list[asyncio.Task[None]] = []
        self._started_at = 0.0
        self._in_doubt = False

    # ------------------------------------------------------------------------------------------------------ life

    @property
    def procedures(self) -> list[Procedure]:
        """The procedures it serves."""
        return [desk.procedure for desk in self._desks.values()]

    async def serve(self, procedures: Sequence[Procedure], *, worker_id: int, store: Store) -> None:
        """Register these procedures for a worker that holds its lock, and take their calls; run on its session."""
        for procedure in procedures:
            if procedure.name not in self._desks:
                slots = procedure.concurrency or self._config.rpc_concurrency
                self._desks[procedure.name] = Desk(procedure, slots=slots)
        await self._register(list(self._desks.values()), worker_id=worker_id, store=store)
        await self._warn_of_strangers(worker_id=worker_id, store=store)
        self._in_doubt = True
        if self._desks and not self._tasks:
            self._started_at = now()
            loops = (self._claim_loop(), self._answerer.run())
            self._tasks = [asyncio.create_task(loop, name="pgbus calls") for loop in loops]
            for task in self._tasks:
                call_on_failure(task, self._failed)
        self.wake()

    async def _register(self, desks: Sequence[Desk], *, worker_id: int, store: Store) -> None:
        await store.fetch(
            "register_procedures",
            worker_id=worker_id,
            procedures=[desk.procedure.name for desk in desks],
            concurrencies=[desk.slots for desk in desks],
            timeouts=[desk.procedure.timeout for desk in desks],
        )

    async def _warn_of_strangers(self, *, worker_id: int, store: Store) -> None:
        """Say once of each procedure that a worker of another service serves it, too."""
        unchecked = [name for name in self._desks if name not in self._checked]
        self._checked.update(unchecked)
        if not unchecked:
            return
        rows = await store.fetch(
            "find_strangers",
            procedures=unchecked,
            worker_id=worker_id,
            service=self._config.service_name,
            home=self._config.home,
        )
        for row in rows:
            logger.warning(
                "procedure %s: %s of service %r serves it too, and this process is of service %r, so they split its "
                "calls between them. If they are two services, give one of the two procedures another name; if they "
                "are one, give both the same service_name",
                row["procedure"], row["worker"], row["service"], self._config.service_name,
            )  # fmt: skip

    def heard(self, payload: str) -> None:
        """What was notified: names of procedures that have work, none for any; or calls that were cancelled."""
        if payload.startswith("cancel "):
            for call_id in split_ids(payload.removeprefix("cancel ")):
                self._cancel(call_id)
        else:
            self.wake(payload.split(",") if payload else None)

    def wake(self, names: Iterable[str] | None = None) -> None:
        """Look for calls of these procedures; default: of all."""
        for name in self._desks if names is None else names:
            if desk := self._desks.get(name):
                desk.may_have_work = True
                self._work.set()

    def failure(self) -> BaseException | None:
        """What ended one of the loops, which should never end by themselves."""
        return failure_of(self._tasks)

    @property
    def age(self) -> float:
        """Seconds since the loops began."""
        return now() - self._started_at

    async def break_off(self) -> None:
        """End the loops after a failure; `serve` begins them again. Calls that run go on, and are answered then."""
        tasks, self._tasks = self._tasks, []
        await end_tasks(*tasks)

    async def stop(self, *, grace: float) -> None:
        """Take no more calls, let running ones finish for `grace` seconds, and answer; the rest is given up as lost."""
        if not self._tasks:
            return
        claimer, answerer = self._tasks
        try:  # from now on a caller who finds no other worker is told so at once
            await self._register([], worker_id=self._worker_id(), store=self._store)
        except Exception as error:
            logger.debug("callers may still try this worker, until its session ends: %s", error)
        await end_tasks(claimer)
        await self._wait_until_idle(grace)
        self.abandon()
        await self._wait_until_idle(LINK_PAUSE_LIMIT)
        await end_tasks(answerer)
        for desk in self._desks.values():
            if desk.threads:
                desk.threads.shutdown(wait=False, cancel_futures=True)

    def abandon(self) -> None:
        """Do not wait for running calls any longer."""
        for running in tuple(self._running.values()):
            self._end(running, "lost")

    async def _wait_until_idle(self, limit: float) -> None:
        try:
            async with asyncio.timeout(limit):
                while self._running or self._answerer.owed:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            pass

    # -------------------------------------------------------------------------------------------------- claiming

    async def _claim_loop(self) -> None:
        tries = Tries("take calls")
        while True:
            desks = [desk for desk in self._desks.values() if desk.room > 0]
            worker_id = self._worker_id()
            if not desks or not worker_id:
                self._work.clear()
                await self._work.wait()
                continue
            try:
                if self._in_doubt:
                    await self._fail_unknown_claims(worker_id)
                await self._claim(desks, worker_id)
                tries.worked()
            except Exception as error:
                self._in_doubt = True
                for desk in desks:
                    desk.may_have_work = True
                await asyncio.sleep(tries.pause_after(error))

    async def _fail_unknown_claims(self, worker_id: int) -> None:
        """Give up what we may have taken without learning of it, as the link broke."""
        await self._store.fetch(
            "fail_unknown_claims",
            worker_id=worker_id,
            worker=self._config.process_name,
            known=self._answerer.owed,
        )
        self._in_doubt = False

    async def _claim(self, desks: list[Desk], worker_id: int) -> None:
        rooms = [desk.room for desk in desks]
        for desk in desks:
            desk.may_have_work = False
        rows = await self._store.fetch(
            "claim_requests",
            worker_id=worker_id,
            procedures=[desk.procedure.name for desk in desks],
            rooms=rooms,
        )
        requests = [ClaimedRequest(*row) for row in rows]
        taken = Counter(request.procedure for request in requests)
        for desk, room in zip(desks, rooms, strict=True):
            # Fewer than there was room for: there are no more, and who posts one says so.
            desk.may_have_work = desk.may_have_work or taken[desk.procedure.name] >= room
        for request in requests:
            self._start(request, self._desks[request.procedure])

    def _start(self, request: ClaimedRequest, desk: Desk) -> None:
        self._answerer.owe(request.call_id, caller=request.caller)
        if request.call_id in self._cancellations:
            self._answerer.add(Response(request.call_id, "cancelled", error=ENDINGS["cancelled"]))
            return
        desk.busy += 1
        running = Running(request, desk.procedure, time.monotonic())
        self._running[request.call_id] = running
        self._telemetry.emit(CallStarted(request.procedure, request.call_id))
        running.task = asyncio.create_task(self._run(running, desk))

    # --------------------------------------------------------------------------------------------------- running

    async def _run(self, running: Running, desk: Desk) -> None:
        """Run one call to its answer; whatever the procedure raises, a SystemExit too, ends here."""
        call_id = running.request.call_id
        deadline = asyncio.get_running_loop().call_later(running.request.seconds_left, self._end, running, "expired")
        try:
            response = answer(call_id, await self._result(running, desk))
        except BaseException as error:
            if running.ending:
                response = Response(call_id, running.ending, error=ENDINGS[running.ending])
            else:
                response = failure(call_id, error)
        finally:
            deadline.cancel()
        del self._running[call_id]
        if running.thread is None or running.thread.done():
            self._release(desk)
        else:
            running.thread.add_done_callback(lambda _: self._release(desk))
        self._log(running, response)
        self._answerer.add(response)
        duration = time.monotonic() - running.started
        self._telemetry.emit(CallEnded(running.procedure.name, call_id, response.outcome, duration))

    async def _result(self, running: Running, desk: Desk) -> str:
        if self._hooks.on_serving:
            value = await self._between_hooks(running, desk)
        else:
            value = await self._execute(running, desk, running.request.arguments)
        return self._encode(running.procedure, value)

    async def _between_hooks(self, running: Running, desk: Desk) -> object:
        """What the hooks made of the result; they hear of one that cannot be sent as of a failure."""
        procedure, text = running.procedure, running.request.arguments
        arguments = plain_arguments(procedure.name, text)
        message = rpc_message(procedure.name, plain_arguments(procedure.name, text), call_id=running.request.call_id)

        async def work() -> object:
            final = text
            if differ(message.kwargs, arguments):
                final = encode_arguments(procedure.name, message.kwargs, limit=self._config.rpc_max_payload)
            value = await self._execute(running, desk, final)
            self._encode(procedure, value)
            return value

        before, after = self._hooks.before_rpc_execution, self._hooks.after_rpc_execution
        return await exchange(before, after, message, work)

    async def _execute(self, running: Running, desk: Desk, text: str) -> object:
        procedure = running.procedure
        arguments = procedure.decode(text)
        if self._middleware.is_used:
            return await self._within_middleware(running, desk, arguments)
        if procedure.is_async:
            return await _call_async(procedure, arguments)
        return await self._in_thread(running, desk, lambda visit: _call_plain(procedure, arguments, visit))

    async def _within_middleware(self, running: Running, desk: Desk, arguments: dict[str, object]) -> object:
        procedure = running.procedure
        context = CallContext(procedure.name, arguments, running.request.call_id)

        def work(visit: threads.Visit) -> object:
            call = functools.partial(_call_plain, procedure, context.arguments, visit)
            return self._middleware.around_plain(context, call)()

        handle = (
            functools.partial(_call_async, procedure, context.arguments)
            if procedure.is_async
            else functools.partial(self._in_thread, running, desk, work)
        )
        return await self._middleware.around(context, handle)()

    async def _in_thread(self, running: Running, desk: Desk, work: Callable[[threads.Visit], object]) -> object:
        """Run a plain function in a thread. It cannot be stopped, only given up; its room is taken until it ends."""
        assert desk.threads is not None
        visit = threads.Visit()
        running.thread = threads.start(desk.threads, functools.partial(work, visit))
        try:
            return (await asyncio.shield(running.thread)).result()
        except asyncio.CancelledError:
            visit.leave()
            raise

    def _encode(self, procedure: Procedure, value: object) -> str:
        try:
            text = encode(value, limit=self._config.rpc_max_payload, field="result")
        except InvalidEventError as error:
            raise InvalidResult(
                f"{procedure.name} returned what cannot be sent: {error.reason}", procedure=procedure.name
            ) from error
        procedure.check(text, value)
        return text

    def _release(self, desk: Desk) -> None:
        desk.busy -= 1
        if desk.may_have_work:
            self._work.set()

    def _cancel(self, call_id: UUID) -> None:
        running = self._running.get(call_id)
        if running:
            self._end(running, "cancelled")
        else:
            self._cancellations.append(call_id)

    def _end(self, running: Running, ending: CallOutcome) -> None:
        if running.task and not running.ending:
            running.ending = ending
            running.task.cancel()

    def _log(self, running: Running, response: Response) -> None:
        if response.outcome in ("failed", "invalid"):
            logger.warning("procedure %s failed: %s", running.procedure.name, response.traceback or response.error)


async def _call_async(procedure: Procedure, arguments: dict[str, object]) -> object:
    return await finish(procedure.handler(**arguments), procedure.name)


def _call_plain(procedure: Procedure, arguments: dict[str, object], visit: threads.Visit) -> object:
    return visit.finish(procedure.handler(**arguments), procedure.name)
