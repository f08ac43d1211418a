"""A worker: one process's share of the bus. It keeps a session, registers its listeners and runs them.

The session listens for notifications and says that we live. Whoever finds no leader leads: sequences, and keeps house.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any, Protocol
from uuid import UUID

from pgbus.aio.backoff import Backoff
from pgbus.aio.clock import now
from pgbus.aio.tasks import end_tasks
from pgbus.config import Config
from pgbus.database import channels, migrate
from pgbus.database.adapters.transactions import Transactions
from pgbus.database.connections import Pool, Pooled, create_pool, session_closed
from pgbus.database.faults import DATABASE_ERRORS, is_fatal, is_link_error, is_passing
from pgbus.database.session import Session
from pgbus.database.statements import deliveries, listeners, schemas, sequencer
from pgbus.database.statements.deliveries import Claim
from pgbus.database.store import Store
from pgbus.database.tries import Tries
from pgbus.handlers.contexts import Publishes
from pgbus.handlers.hooks import Hooks
from pgbus.handlers.middleware import Middleware
from pgbus.leader.leader import Leader
from pgbus.listeners.executor import Executor
from pgbus.listeners.listener import Listener
from pgbus.listeners.quarantine import Quarantine
from pgbus.listeners.registration import register_listener
from pgbus.listeners.runner import Runner, slots_of
from pgbus.listeners.settlement import HeldClaim
from pgbus.rpc.server import Server
from pgbus.schedules.runner import Tasks
from pgbus.schema import SEEN_INTERVAL, Catalog
from pgbus.telemetry import SessionLost, SessionOpened, Telemetry
from pgbus.worker.restarts import RESTART_LIMIT, RESTART_PAUSE, Restarts
from pgbus.worker.selection import Selection
from pgbus.worker.stall_watch import StallWatch

logger = logging.getLogger("pgbus")

# Seconds.
LEAD_INTERVAL = 1.0
TOUCH_INTERVAL = 10.0
RECONNECT_PAUSE = 0.1
RECONNECT_LIMIT = 5.0
HURRIED_HOOKS = 2.0
# Of a PostgreSQL integer.
_ID_DIGITS = 10


class Owner(Protocol):
    """Starts and stops workers, and so knows of each that runs."""

    async def run_start_hooks(self) -> None:
        """Call the functions that wait for a start, each once."""
        ...

    def note_start(self, worker: Worker) -> None:
        """A worker runs in the running event loop."""
        ...

    def note_end(self, worker: Worker) -> None:
        """A worker has ended."""
        ...


class Worker:
    """Runs a selection of listeners, procedures and schedules in this event loop. A bus makes it: `bus.make_worker`.

    A worker without any still leads when nobody else does. `on_error` is awaited with the error that ends it.
    """

    def __init__(
        self,
        *,
        config: Config,
        selection: Selection,
        middleware: Middleware,
        hooks: Hooks,
        schemas: Catalog,
        telemetry: Telemetry,
        sender: Publishes,
        owner: Owner,
        on_error: Callable[[Exception], Awaitable[None]],
    ) -> None:
        self._config = config
        self._selection = selection
        self._middleware = middleware
        self._hooks = hooks
        self._schemas = schemas
        self._telemetry = telemetry
        self._sender = sender
        self._owner = owner
        self._on_error = on_error
        self._worker_id = 0
        self._session: Session | None = None
        self._lost_at = -math.inf
        self._runners: dict[int, Runner] = {}
        self._server: Server | None = None
        self._tasks: Tasks | None = None
        self._threads: dict[int, ThreadPoolExecutor] = {}
        self._reconnecting = Backoff(RECONNECT_PAUSE, RECONNECT_LIMIT)
        self._leading_again = Backoff(RESTART_PAUSE, RESTART_LIMIT)
        self._quarantine = Quarantine()
        self._others = True
        self._leader = Leader(config, telemetry=telemetry, neighbours=self, has_others=lambda: self._others)
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._leaderless = asyncio.Event()
        self._added = asyncio.Event()
        self._restarts = Restarts(telemetry=telemetry, wake=self._added.set)
        self._stopped = asyncio.Event()
        self.ready = asyncio.Event()
        """Set once the listeners are registered and claim."""

    @property
    def leads(self) -> bool:
        """Whether this worker is the leader now."""
        return self._leader.leads

    def request_stop(self) -> None:
        """Stop: the first time, let running handlers finish within the grace period; the second time, do not."""
        if self._stopping.is_set():
            self._hurry.set()
            for runner in self._runners.values():
                runner.abandon()
            if self._server:
                self._server.abandon()
            if self._tasks:
                self._tasks.abandon()
        self._stopping.set()

    async def stop(self) -> None:
        """Request a stop and wait until `run` has returned."""
        if not self._stopping.is_set():
            self.request_stop()
        await self._stopped.wait()

    async def run(self) -> None:
        """Work until stopped, once the functions of `bus.client.on_start` have run; what they raise comes through.

        Those of `bus.client.on_stop` run when it has stopped.

        A lost connection is opened again, and what the database refuses for now is tried again. Raises
        SchemaVersionError for the wrong schema, DatabaseUnreachableError when the first connection fails,
        ConfigurationError for a name in `only` or `skip` that is not there, and the driver's error for what no further
        try can mend.
        """
        self._owner.note_start(self)
        if self._config.home and not self._config.service_name:
            logger.warning(
                "this service has no name, and no folder above %s tells one: set service_name, or else a listener of "
                "the same name in another service shares its events", self._config.home,
            )  # fmt: skip
        try:
            if await self._run_start_hooks():
                try:
                    await self._run_with_pools()
                finally:
                    await self._run_stop_hooks()
        except Exception as error:
            await self._on_error(error)
            raise
        finally:
            self._owner.note_end(self)
            self._stopped.set()

    async def _run_start_hooks(self) -> bool:
        """Let the module declare its listeners; false when a stop was requested before it was done."""
        hooks = await _run_until(self._owner.run_start_hooks(), self._stopping, name="pgbus start hooks")
        if hooks.cancelled():
            return False
        hooks.result()
        self._selection.work()  # raises for a name that is not declared
        return True

    async def _run_stop_hooks(self) -> None:
        """Give them the grace period, too, unless a stop in a hurry was requested, or is while they run."""
        limit = HURRIED_HOOKS if self._hurry.is_set() else self._config.grace
        self._hurry.clear()
        hooks = asyncio.create_task(self._hooks.after_worker_stopped.run_all())
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait([hooks, hurry], timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if not hooks.done():
            logger.warning("on_stop hooks still ran after %g seconds, or a second signal; they are left", limit)
        await end_tasks(hooks, hurry)

    async def _run_with_pools(self) -> None:
        size = self._config.pool_size
        engine_pool = await create_pool(self._config, size=size, for_engine=True)
        handler_pool = await create_pool(self._config, size=self._connections_for_handlers(), for_users=True)
        transactions = Transactions(
            self._config.dsn,
            pool=handler_pool,
            size=self._connections_for_handlers(),
            behind_pooler=self._config.behind_pooler,
        )
        loop = asyncio.get_running_loop()

        def look_again(_: str) -> None:
            loop.call_soon_threadsafe(self._added.set)  # what is declared while we run is declared in any thread

        unwatch = self._selection.watch(look_again)
        try:
            await self._run(engine_pool, transactions)
        finally:
            unwatch()
            for threads in self._threads.values():
                threads.shutdown(wait=False, cancel_futures=True)
            await transactions.close()
            await _close_pool(handler_pool)
            await _close_pool(engine_pool)

    def _connections_for_handlers(self) -> int:
        needs = sum(listener.concurrency for listener in self._selection.work().listeners if listener.transactional)
        return max(self._config.pool_size, needs)

    async def _run(self, pool: Pool, transactions: Transactions) -> None:
        store = Store(Pooled(pool), namespace=self._config.namespace)
        self._engine = (pool, store, transactions)
        self._server = Server(
            store,
            config=self._config,
            telemetry=self._telemetry,
            hooks=self._hooks,
            middleware=self._middleware,
            worker_id=self._claimant,
            failed=self._added.set,
        )
        self._tasks = Tasks(
            store,
            config=self._config,
            telemetry=self._telemetry,
            worker_id=self._claimant,
            failed=self._added.set,
        )
        session_task = asyncio.create_task(self._session_loop(), name="pgbus session")
        upkeep = asyncio.create_task(self._upkeep_loop(store), name="pgbus upkeep")
        stopping = asyncio.create_task(self._stopping.wait())
        stall_watch = StallWatch(on_stall=self._leader.resign)
        try:
            await asyncio.wait([session_task, upkeep, stopping], return_when=asyncio.FIRST_COMPLETED)
            await self._drain(store, failed=session_task.done() or upkeep.done())
        finally:
            stall_watch.stop()
            await end_tasks(stopping, upkeep, session_task)
        await self._leave(store)
        for task in (session_task, upkeep):
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _drain(self, store: Store, *, failed: bool) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (0.0 if self._hurry.is_set() else self._config.grace)
        parts: list[Runner | Tasks] = [*self._runners.values(), *([self._tasks] if self._tasks else [])]
        self._say_what_still_runs(deadline - loop.time())
        await asyncio.gather(*(part.stop(grace=deadline - loop.time()) for part in parts))
        # A claim whose answer was under way: while our lock is held, or else a leader would count it for a death. If we
        # lead, after a look of the sequencer that may be claiming for us. When it is an error that ends us, it may be
        # that claim's: then let it be counted.
        if not failed:
            with contextlib.suppress(*DATABASE_ERRORS):
                async with asyncio.timeout(2):
                    await self._return_forgotten_claims(self._leader.store or store)
        if self._server:  # last: handlers that finish may call our own procedures
            grace = 0.0 if self._hurry.is_set() else deadline - loop.time()
            await self._server.stop(grace=max(0.0, grace))

    def _say_what_still_runs(self, grace: float) -> None:
        busy = [runner.listener.name for runner in self._runners.values() if runner.is_busy]
        if busy and grace > 0:
            logger.info(
                "stopping; waiting up to %.0f s for handlers of %s; a second signal does not wait",
                grace, ", ".join(busy),
            )  # fmt: skip
        else:
            logger.info("stopping")

    async def _leave(self, store: Store) -> None:
        """Forget ourselves, and let the next leader know that there is none."""
        if not self._worker_id:
            return
        with contextlib.suppress(*DATABASE_ERRORS):
            async with asyncio.timeout(2):
                await schemas.touch_schemas(store, worker_id=self._worker_id, age=0.0)
                await listeners.remove_worker(store, worker_id=self._worker_id)
                await sequencer.notify_workers(store, "leaderless")

    # ------------------------------------------------------------------------------------------------ the session

    async def _session_loop(self) -> None:
        """Keep a session open; say once when it is lost, and once when it is back."""
        opened_before = False
        while True:
            try:
                async with contextlib.AsyncExitStack() as stack:
                    session = await self._open_session()
                    stack.push_async_callback(session.close)
                    opened_before = True
                    await self._live(session)
            except Exception as error:
                if not opened_before or is_fatal(error, has_worked=self.ready.is_set()):
                    raise
                self._lost_at = now()
                if not self._reconnecting.tries:
                    logger.warning("lost the database, trying to get it back: %s", error)
                    self._telemetry.emit(SessionLost(str(error)))
            await asyncio.sleep(self._reconnecting.next())

    async def _open_session(self) -> Session:
        namespace = self._config.namespace
        heard = {channels.work(namespace): self._heard_work, channels.schemas(namespace): self._heard_schemas}
        if self._server:
            heard[channels.calls(namespace)] = self._server.heard
        return await Session.open(self._config, channels=heard)

    async def _live(self, session: Session) -> None:
        await migrate.check_async(session.connection, namespace=self._config.namespace)
        await self._register_worker(session)
        await self._extend_leases(session.store)  # while we were away, the leader may have taken some back
        # A leader who believed to be alone notifies from now on. After our lock, by which it counts its company.
        await sequencer.notify_workers(session.store, "arrived")
        self._session = session
        await self._register_listeners()
        await self._serve(session.store)
        await self._publish_schemas(session.store)
        self._telemetry.emit(SessionOpened(self._worker_id))
        for runner in self._runners.values():
            runner.look_at_everything()
        if self._reconnecting.tries:
            logger.info("the database is back")
        self._reconnecting.reset()
        self.ready.set()
        while not session.lost.is_set():
            if await sequencer.is_leaderless(session.store):
                await self._lead(session)
            await self._wait_for_leaderlessness()
        raise session_closed()

    async def _serve(self, store: Store) -> None:
        work = self._selection.work()
        if self._server and work.procedures and not self._restarts.is_resting("calls"):
            await self._server.serve(work.procedures, worker_id=self._worker_id, store=store)
        if self._tasks and not self._restarts.is_resting("schedules"):
            await self._tasks.start(work.schedules, work.background)

    async def _publish_schemas(self, store: Store) -> None:
        """Say what we speak, and learn what others do. A worker that may not goes on without."""
        catalog = self._schemas
        work = self._selection.work()
        declared = catalog.code.declare(procedures=work.procedures, listeners=work.listeners)
        try:
            await catalog.publication.publish(declared, store=store, worker_id=self._worker_id)
            await catalog.stored.load(store)
        except Exception as error:  # what others stored may be anything
            if is_link_error(error):
                raise
            logger.warning("schemas are neither stored nor known here: %s", error)

    def _heard_schemas(self, payload: str) -> None:  # noqa: ARG002 - it tells that something changed, not what
        if session := self._session:
            self._schemas.stored.drop(session.store)

    async def _register_worker(self, session: Session) -> None:
        """Take our liveness lock: under the old id if it is still ours to have, so that our claims stay ours."""
        if self._worker_id and await self._lock_worker(session, self._worker_id):
            return
        self._worker_id = 0
        for held in self._held_claims():
            held.lapse()  # claimed under an id whose lock is not ours any more
        worker_id = await self._insert_worker(session)
        while not await self._lock_worker(session, worker_id):
            # Someone, say another application, holds a lock of the same numbers: nobody could tell when we are dead.
            await listeners.remove_worker(session.store, worker_id=worker_id)
            worker_id = await self._insert_worker(session)
        self._worker_id = worker_id

    async def _insert_worker(self, session: Session) -> int:
        return await listeners.register_worker(
            session.store,
            name=self._config.process_name,
            service=self._config.service_name,
            home=self._config.home,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=version("pgbus"),
            listeners=[listener.name for listener in self._selection.work().listeners],
        )

    async def _lock_worker(self, session: Session, worker_id: int) -> bool:
        return await listeners.lock_worker(session.store, worker_id=worker_id)

    async def _wait_for_leaderlessness(self) -> None:
        self._leaderless.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAD_INTERVAL * random.uniform(0.8, 1.2)):  # noqa: S311 - jitter
                await self._leaderless.wait()

    async def _lead(self, session: Session) -> None:
        """Lead until the leader's session breaks, or ours.

        What fails in it ends no worker: if it is a row, it would end one after the other, and their listeners.
        """
        began = time.monotonic()
        leading = await _run_until(self._leader.lead(self._worker_id), session.lost, name="pgbus leader")
        if leading.cancelled() or not (error := leading.exception()):
            return
        if is_passing(error):
            logger.info("no longer leading: %s", error)
            return
        if time.monotonic() - began > RESTART_LIMIT:
            self._leading_again.reset()
        pause = self._leading_again.next()
        logger.error("leading failed; this worker does not try again for %.1f s", pause, exc_info=error)
        await _run_until(asyncio.sleep(pause), session.lost, name="pgbus leader's rest")

    # ------------------------------------------------------------------------------------------------ the listeners

    async def _register_listeners(self) -> None:
        pool, _, _ = self._engine
        known = {runner.listener.name for runner in self._runners.values()}
        for listener in self._selection.work().listeners:
            listener_id = await register_listener(listener, pool=pool, config=self._config, worker_id=self._worker_id)
            if listener.name in known or listener_id in self._runners or self._restarts.is_resting(_part_of(listener)):
                continue
            runner = self._make_runner(listener, listener_id)
            self._runners[listener_id] = runner
            runner.start(ended=self._added.set)
        self._leader.catch_up()

    def _make_runner(self, listener: Listener, listener_id: int) -> Runner:
        _, store, transactions = self._engine
        # Threads of its own: those of a listener whose functions hang are nobody else's.
        threads = ThreadPoolExecutor(slots_of(listener, self._config), thread_name_prefix=f"pgbus {listener.name}")
        self._threads[listener_id] = threads
        executor = Executor(
            listener,
            threads=threads,
            transactions=transactions,
            middleware=self._middleware,
            sender=self._sender,
        )
        return Runner(
            listener,
            listener_id=listener_id,
            worker_id=self._claimant,
            has_others=lambda: self._others,
            was_cut_off=self._was_cut_off,
            store=store,
            executor=executor,
            hooks=self._hooks,
            config=self._config,
            telemetry=self._telemetry,
            quarantine=self._quarantine,
        )

    async def _end_failed_parts(self, store: Store) -> None:
        """End the parts of which a loop has failed, which nothing but a fault of code can bring about.

        Each begins again after a pause, and nothing else ends with it. A listener's claims count as those of a dead
        worker.
        """
        failed = [(id_, runner, error) for id_, runner in self._runners.items() if (error := runner.failure())]
        for id_, runner, error in failed:
            del self._runners[id_]
            self._restarts.note_failure(_part_of(runner.listener), error, age=runner.age)
            await runner.break_off()
            self._threads.pop(id_).shutdown(wait=False, cancel_futures=True)
        for part, loops in (("calls", self._server), ("schedules", self._tasks)):
            if loops and (error := loops.failure()):
                self._restarts.note_failure(part, error, age=loops.age)
                await loops.break_off()
        if failed and (worker_id := self._claimant()):
            await deliveries.forfeit_claims(store, await self._forgotten(store), worker_id=worker_id)

    def _claimant(self) -> int:
        """The id to claim under; 0 while our session is away, and with it the lock that says we live.

        The leader would take back whatever we claimed, and count our death for it.
        """
        return self._worker_id if self._session and not self._session.lost.is_set() else 0

    def _was_cut_off(self, since: float) -> bool:
        """Whether our session is lost, or was at that time or later."""
        return not self._claimant() or self._lost_at >= since

    # ------------------------------------------------------------------------------------------------ waking

    def wake(self, listener_ids: Iterable[int]) -> None:
        """Have these listeners claim."""
        for listener_id in listener_ids:
            if runner := self._runners.get(listener_id):
                runner.wake()

    def offer(self, token: UUID) -> tuple[int, Sequence[int]]:
        """Our id, and the listeners that are idle: the sequencer may claim an event for each of them."""
        worker_id = self._claimant()
        if not worker_id:
            return 0, []
        return worker_id, [id_ for id_, runner in self._runners.items() if runner.offer(token)]

    def hand_over(self, claims: Mapping[int, Claim], *, sent_at: float) -> None:
        """Give the idle listeners what the sequencer claimed for them, in answer to the last offer."""
        for listener_id, runner in self._runners.items():
            runner.hand_over(claims.get(listener_id), sent_at=sent_at)

    def _heard_work(self, payload: str) -> None:
        if payload == "leaderless":
            self._leaderless.set()
        elif payload == "arrived":
            self._others = True
        elif payload == "subscribed":
            self._leader.catch_up()
        elif payload == "reload":
            for runner in self._runners.values():
                runner.look_at_everything()
            self._leader.catch_up()
            if self._tasks:
                self._tasks.wake()
        else:
            self.wake(_read_ids(payload))

    # ------------------------------------------------------------------------------------------------ upkeep

    async def _upkeep_loop(self, store: Store) -> None:
        """Keep leases, say that we are here, and look for work in case a notification was lost."""
        loop = asyncio.get_running_loop()
        await self.ready.wait()
        extend_at = touch_at = 0.0
        told: Mapping[str, str] = {}
        was_added = False
        tries = Tries("look after what is claimed")
        while True:
            pause = min(self._config.poll_interval, self._config.lease / 3)
            # Before the look at what failed: what fails, or is declared, from here on is seen in the next round.
            was_added = was_added or self._added.is_set()
            self._added.clear()
            try:
                await self._end_failed_parts(store)
                if self._restarts.resting != told:
                    touch_at = 0.0
                if loop.time() >= extend_at:
                    await self._extend_leases(store)
                    extend_at = loop.time() + self._config.lease / 3
                if loop.time() >= touch_at:
                    await self._touch(store)
                    told = dict(self._restarts.resting)
                    touch_at = loop.time() + TOUCH_INTERVAL
                if was_added:
                    await self._register_listeners()
                    if self._session and not self._session.lost.is_set():
                        await self._serve(store)
                        await self._publish_schemas(store)
                    was_added = False
                await self._return_forgotten_claims(store)
                await self._poll(store)
                tries.worked()
            except Exception as error:
                pause = tries.pause_after(error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._added.wait()

    async def _extend_leases(self, store: Store) -> None:
        """Keep our claims; of one that is no longer ours no more events begin."""
        held_claims = {held.claim.id: held for held in self._held_claims()}
        if not held_claims:
            return
        kept_until = now() + self._config.lease
        kept = await deliveries.extend_leases(
            store, [held.claim for held in held_claims.values()], lease=self._config.lease
        )
        for id_ in kept:
            held_claims.pop(id_).kept_until = kept_until
        if held_claims:  # a transactional handler has locked them, or they are lost
            ours = await deliveries.find_our_claims(store, [held.claim for held in held_claims.values()])
            for id_ in held_claims.keys() - ours:
                held_claims[id_].lapse()

    def _held_claims(self) -> list[HeldClaim]:
        return [held for runner in self._runners.values() for held in runner.held_claims]

    async def _return_forgotten_claims(self, store: Store) -> None:
        """Give back what the database says we have claimed, and we do not know of: an answer was lost."""
        if (worker_id := self._claimant()) and (forgotten := await self._forgotten(store)):
            await deliveries.return_claims(store, forgotten, worker_id=worker_id)

    async def _forgotten(self, store: Store) -> set[UUID]:
        claimed = await deliveries.find_own_claims(store, worker_id=self._claimant())
        # Known is asked for last: by then we know of every claim that we asked for before the look.
        return claimed - {token for runner in self._runners.values() for token in runner.tokens}

    async def _touch(self, store: Store) -> None:
        others = await listeners.touch_worker(
            store,
            worker_id=self._worker_id,
            listener_ids=self._runners,
            listeners=[runner.listener.name for runner in self._runners.values()],
            failures=self._restarts.resting,
        )
        self._others = others > 0
        await schemas.touch_schemas(store, worker_id=self._worker_id, age=SEEN_INTERVAL)

    async def _poll(self, store: Store) -> None:
        if self._runners:
            self.wake(await sequencer.find_ready_listeners(store, self._runners))
        if self._server:
            self._server.wake()


def _part_of(listener: Listener) -> str:
    return f"listener {listener.name}"


def _read_ids(payload: str) -> Iterable[int]:
    """The listener ids of a notification. Anyone may notify: what is not an id is passed over."""
    # ASCII, as isdigit() alone is also true of what int() refuses; and short, as it refuses thousands of digits.
    return (int(part) for part in payload.split(",") if part.isascii() and part.isdigit() and len(part) <= _ID_DIGITS)


async def _run_until(work: Coroutine[Any, Any, None], ended: asyncio.Event, *, name: str) -> asyncio.Task[None]:
    """Do the work until it is done, or the event is set, which cancels it; its task, which has come to its end."""
    task = asyncio.create_task(work, name=name)
    end = asyncio.create_task(ended.wait())
    try:
        await asyncio.wait([task, end], return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_tasks(task, end)
    return task


async def _close_pool(pool: Pool) -> None:
    try:
        async with asyncio.timeout(2):
            await pool.close()
    except TimeoutError:
        pool.terminate()
