"""The server's side: claims requests while there is room, has the procedures run, and answers in batches.

One loop runs one statement after the other: each claims what there is room for, and writes the responses that have
gathered while the last one was on its way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from pgbus.aio.clock import now
from pgbus.aio.tasks import call_on_failure, end_tasks, failure_of
from pgbus.config import Config
from pgbus.database.statements import rpc
from pgbus.database.statements.rpc import ClaimedRequest, Response
from pgbus.database.store import Store
from pgbus.database.tries import LINK_PAUSE_LIMIT, Tries
from pgbus.handlers.hooks import Hooks
from pgbus.handlers.middleware import Middleware
from pgbus.rpc.answerer import Answerer
from pgbus.rpc.execution import ENDINGS, Execution, Running
from pgbus.rpc.procedures import Procedure
from pgbus.rpc.wire import seal, split_ids
from pgbus.telemetry import CallEnded, CallStarted, Telemetry

logger = logging.getLogger("pgbus")

# Seals remembered of cancelled calls that are not ours, or not yet: one may overtake the claim's own rows.
REMEMBERED_CANCELLATIONS = 1_000


class Desk:
    """The room of one procedure.

    `may_have_work` is cleared before each claim and set by each notification of a request, also while the claim is on
    its way: so no request is missed that its snapshot did not show.
    """

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
        self._execution = Execution(config=config, hooks=hooks, middleware=middleware)
        self._config = config
        self._telemetry = telemetry
        self._desks: dict[str, Desk] = {}
        self._checked: set[str] = set()
        # Added by `_start`, and taken out by the call's own task before it answers.
        self._running: dict[UUID, Running] = {}
        # Of calls that do not run here: all servers hear a cancellation, and one may overtake the rows of our claim.
        self._cancellations: deque[UUID] = deque(maxlen=REMEMBERED_CANCELLATIONS)
        self._worker_id = worker_id
        # Set when there is something to claim or to write; the loop clears it when it finds nothing.
        self._work = asyncio.Event()
        # Set after each statement; `stop`, which waits for it, clears it before each look.
        self._idle = asyncio.Event()
        # It outlives the loop: after `break_off`, the next loop writes what the calls that went on have answered.
        self._answerer = Answerer(store, worker=config.process_name)
        self._task: asyncio.Task[None] | None = None
        # Set by `stop`: the loop claims no more, and only writes what is owed.
        self._is_stopping = False
        # A statement that claims is on its way: what it brings is ours, so `stop` waits for it.
        self._is_claiming = False
        self._started_at = 0.0
        # A statement that claimed has failed, or our session was lost: we may have claimed what we do not know of.
        self._in_doubt = False

    # ------------------------------------------------------------------------------------------------------ life

    @property
    def procedures(self) -> list[Procedure]:
        """The procedures that this server serves."""
        return [desk.procedure for desk in self._desks.values()]

    @property
    def calls(self) -> list[Running]:
        """The calls that run now."""
        return list(self._running.values())

    async def serve(self, procedures: Sequence[Procedure], *, worker_id: int, store: Store) -> None:
        """Register these procedures for a worker that holds its lock, and take their calls; run on its session."""
        for procedure in procedures:
            if procedure.name not in self._desks:
                slots = procedure.concurrency or self._config.rpc_concurrency
                self._desks[procedure.name] = Desk(procedure, slots=slots)
        await self._register(list(self._desks.values()), worker_id=worker_id, store=store)
        await self._warn_of_strangers(worker_id=worker_id, store=store)
        self._in_doubt = True  # of what the worker's last session had claimed
        if self._desks and not self._task:
            self._started_at = now()
            self._task = asyncio.create_task(self._loop(), name="pgbus calls")
            call_on_failure(self._task, self._failed)
        self.wake()

    async def _register(self, desks: Sequence[Desk], *, worker_id: int, store: Store) -> None:
        servings = [rpc.Serving(desk.procedure.name, desk.slots, desk.procedure.timeout) for desk in desks]
        await rpc.register_procedures(store, servings, worker_id=worker_id)

    async def _warn_of_strangers(self, *, worker_id: int, store: Store) -> None:
        """Say once of each procedure that a worker of another service serves it, too."""
        unchecked = [name for name in self._desks if name not in self._checked]
        self._checked.update(unchecked)
        if not unchecked:
            return
        strangers = await rpc.find_strangers(
            store, unchecked, worker_id=worker_id, service=self._config.service_name, home=self._config.home
        )
        for stranger in strangers:
            logger.warning(
                "procedure %s: %s of service %r serves it too, and this process is of service %r, so they split its "
                "calls between them. If they are two services, give one of the two procedures another name; if they "
                "are one, give both the same service_name",
                stranger.procedure, stranger.worker, stranger.service, self._config.service_name,
            )  # fmt: skip

    def heard(self, payload: str) -> None:
        """Handle a notification: names of procedures that have work (none means any), or seals of cancelled calls."""
        if payload.startswith("cancel "):
            self._cancel(split_ids(payload.removeprefix("cancel ")))
        else:
            self.wake(payload.split(",") if payload else None)

    def wake(self, names: Iterable[str] | None = None) -> None:
        """Look for calls of these procedures; default: of all."""
        for name in self._desks if names is None else names:
            if desk := self._desks.get(name):
                desk.may_have_work = True
                self._work.set()

    def failure(self) -> BaseException | None:
        """The error that ended the loop, which should never end by itself."""
        return failure_of([self._task] if self._task else [])

    @property
    def age(self) -> float:
        """Seconds since the loop began."""
        return now() - self._started_at

    async def break_off(self) -> None:
        """End the loop after a failure; `serve` begins it again. Calls that run go on, and are answered then."""
        task, self._task = self._task, None
        if task:
            await end_tasks(task)

    async def stop(self, *, grace: float) -> None:
        """Take no more calls, let running ones finish for `grace` seconds, and answer; the rest is given up as lost."""
        if not self._task:
            return
        self._is_stopping = True
        try:  # from now on a caller that finds no other worker gets NoWorkerAvailable at once
            await self._register([], worker_id=self._worker_id(), store=self._store)
        except Exception as error:
            logger.debug("callers may still send calls to this worker until its session ends: %s", error)
        await self._wait_until_idle(grace)
        self.abandon()
        await self._wait_until_idle(LINK_PAUSE_LIMIT)
        await self.break_off()  # if that was not done meanwhile, after a failure
        for desk in self._desks.values():
            if desk.threads:
                desk.threads.shutdown(wait=False, cancel_futures=True)

    def abandon(self) -> None:
        """Do not wait for running calls any longer."""
        for running in tuple(self._running.values()):
            running.end("lost")

    async def _wait_until_idle(self, limit: float) -> None:
        try:
            async with asyncio.timeout(limit):
                while self._running or self._answerer.owed or self._is_claiming:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            pass

    # -------------------------------------------------------------------------------------------------- the loop

    async def _loop(self) -> None:
        tries = Tries("take and answer calls")
        while True:
            worker_id = self._worker_id()
            desks = self._desks_with_work() if worker_id else []
            if not (desks or self._answerer.has_responses):
                self._work.clear()
                await self._work.wait()
                continue
            try:
                await self._answer_and_claim(desks, worker_id)
                tries.worked()
            except Exception as error:
                # It may have claimed, and only its answer was lost: before the next claim, those calls are failed.
                self._in_doubt = True
                for desk in desks:
                    desk.may_have_work = True
                await asyncio.sleep(tries.pause_after(error))

    def _desks_with_work(self) -> list[Desk]:
        return [] if self._is_stopping else [desk for desk in self._desks.values() if desk.room > 0]

    async def _fail_unknown_claims(self, worker_id: int) -> None:
        """Fail the calls that this worker may have claimed without getting the answer, because the link broke."""
        await rpc.fail_unknown_claims(
            self._store, worker_id=worker_id, worker=self._config.process_name, known=self._answerer.owed
        )
        self._in_doubt = False

    async def _answer_and_claim(self, desks: list[Desk], worker_id: int) -> None:
        self._is_claiming = bool(desks)
        try:
            if desks and self._in_doubt:
                await self._fail_unknown_claims(worker_id)
            await self._exchange(desks, worker_id)
        finally:
            self._is_claiming = False
            self._idle.set()

    async def _exchange(self, desks: list[Desk], worker_id: int) -> None:
        # Read before the flags are cleared, as a desk that is not woken has no room.
        rooms = {desk.procedure.name: desk.room for desk in desks}
        for desk in desks:
            desk.may_have_work = False
        if self._answerer.has_responses:
            requests = await self._answerer.answer(rooms=rooms, worker_id=worker_id)
        else:
            requests = await rpc.claim_requests(self._store, rooms, worker_id=worker_id)
        taken = Counter(request.procedure for request in requests)
        for desk in desks:
            # Fewer than there was room for: there are no more, and a caller that posts one notifies.
            name = desk.procedure.name
            desk.may_have_work = desk.may_have_work or taken[name] >= rooms[name]
        for request in requests:
            self._start(request, self._desks[request.procedure])

    def _start(self, request: ClaimedRequest, desk: Desk) -> None:
        # First of all: a call that is claimed and not owed counts as forgotten, and `_fail_unknown_claims` fails it.
        self._answerer.owe(request.call_id, caller=request.caller)
        if self._cancellations and seal(request.call_id) in self._cancellations:
            self._answer(Response(request.call_id, "cancelled", error=ENDINGS["cancelled"]))
            return
        desk.busy += 1
        running = Running(request, desk.procedure, desk.threads)
        self._running[request.call_id] = running
        self._telemetry.emit(CallStarted(request.procedure, request.call_id))
        running.task = asyncio.create_task(self._run(running, desk))

    # --------------------------------------------------------------------------------------------------- running

    async def _run(self, running: Running, desk: Desk) -> None:
        response = await self._execution.respond(running)
        del self._running[response.call_id]
        if running.thread is None or running.thread.done():
            self._release(desk)
        else:
            running.thread.add_done_callback(lambda _: self._release(desk))
        self._answer(response)
        duration = time.monotonic() - running.started
        self._telemetry.emit(CallEnded(running.procedure.name, response.call_id, response.outcome, duration))

    def _answer(self, response: Response) -> None:
        self._answerer.add(response)
        self._work.set()

    def _release(self, desk: Desk) -> None:
        desk.busy -= 1
        if desk.may_have_work:
            self._work.set()

    def _cancel(self, sealed: Iterable[UUID]) -> None:
        ours = {seal(call_id): running for call_id, running in self._running.items()}
        for one in sealed:
            if running := ours.get(one):
                running.end("cancelled")
            else:
                self._cancellations.append(one)
