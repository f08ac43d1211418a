"""A worker: one process's share of the bus, from its start hooks to its stop hooks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import msgspec

from pgbus.aio.tasks import end_tasks, failure_of, run_until
from pgbus.config import Config
from pgbus.database.adapters.transactions import Transactions
from pgbus.database.connections import Kept, Pool, Pooled, create_pool
from pgbus.database.faults import DATABASE_ERRORS
from pgbus.database.store import Store
from pgbus.handlers.contexts import Publishes
from pgbus.handlers.hooks import Hooks
from pgbus.handlers.middleware import Middleware
from pgbus.leader.frontier import Frontier
from pgbus.leader.leader import Leader
from pgbus.leader.slumber import Slumber
from pgbus.rpc.server import Server
from pgbus.schedules.tasks import Tasks
from pgbus.schema import Catalog
from pgbus.telemetry import Telemetry
from pgbus.worker.membership import Membership
from pgbus.worker.parts import Parts
from pgbus.worker.rest import Rest
from pgbus.worker.restarts import Restarts
from pgbus.worker.runners import Runners
from pgbus.worker.selection import Selection
from pgbus.worker.session_loop import SessionLoop
from pgbus.worker.stall_watch import StallWatch
from pgbus.worker.under_way import say_what_runs, work_of
from pgbus.worker.upkeep import Upkeep

logger = logging.getLogger("pgbus")

# Seconds.
HURRIED_HOOKS = 2.0
CLOSE_TIMEOUT = 2.0


class Owner(Protocol):
    """Starts and stops workers, and so knows of each that runs."""

    async def run_start_hooks(self) -> None:
        """Call the functions that wait for a start, each once."""
        ...

    def note_start(self, worker: Worker) -> None:
        """A worker runs in the running event loop."""
        ...

    def note_end(self, worker: Worker) -> None:
        """Note that a worker of the bus has ended."""
        ...


class Floors(msgspec.Struct, frozen=True):
    """How far the outbox is read, None where this worker does not lead; and positions by listener_name."""

    outbox: Frontier | None
    deliveries: Mapping[str, int]


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
        self._membership = Membership(config, telemetry=telemetry)
        self._slumber = Slumber(waking=self._rise)
        self._rest = Rest(self._slumber, membership=self._membership, idle_close=config.idle_close)
        self._parts: Parts | None = None  # while it runs
        self._stopping = asyncio.Event()  # a stop was requested; never cleared
        self._hurry = asyncio.Event()  # a second one was; cleared before the stop hooks, which one more ends
        self._stopped = asyncio.Event()  # `run` is about to return
        self.ready = asyncio.Event()
        """Set once the listeners are registered and claim."""

    @property
    def leads(self) -> bool:
        """Whether this worker is the leader now."""
        return self._parts is not None and self._parts.leader.leads

    @property
    def is_asleep(self) -> bool:
        """Whether the bus sleeps, as nothing is owed: this worker asks nothing until a notification or a due time."""
        return self._slumber.is_asleep

    @property
    def is_resting(self) -> bool:
        """Whether it has closed its sessions while the bus sleeps, or is about to, as `idle_close` says."""
        return self._rest.is_on

    @property
    def floors(self) -> Floors:
        """Where this worker's scans of the outbox and of deliveries begin."""
        if not self._parts:
            return Floors(outbox=None, deliveries={})
        return Floors(outbox=self._parts.leader.frontier, deliveries=self._parts.runners.floors)

    def why_not_ready(self) -> str | None:
        """Return the reason why this worker does not work now, for a probe; None if it does."""
        if self._stopping.is_set():
            return "the worker is stopping"
        if not self.ready.is_set():
            return "the worker is starting"
        if self._rest.is_on or self._membership.session:
            return None
        return "the worker's session with the database is lost"

    def wake(self) -> None:
        """Open the sessions again where the worker rests, and look for work; in its event loop."""
        self._rest.wake()

    def request_stop(self) -> None:
        """Stop: the first time, let running handlers finish within the grace period; the second time, do not."""
        if self._stopping.is_set():
            self._hurry.set()
            if self._parts:
                self._parts.abandon()
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
                    await self._run_between_rests()
                finally:
                    await self._run_stop_hooks()
        except Exception as error:
            await self._on_error(error)
            raise
        finally:
            self._slumber.close()
            self._owner.note_end(self)
            self._stopped.set()

    # ------------------------------------------------------------------------------------------------------ hooks

    async def _run_start_hooks(self) -> bool:
        """Let the module declare its listeners; false when a stop was requested before it was done."""
        hooks = await run_until(self._owner.run_start_hooks(), self._stopping, name="pgbus start hooks")
        if hooks.cancelled():
            return False
        hooks.result()
        self._selection.work()  # raises for a name that is not declared
        return True

    async def _run_stop_hooks(self) -> None:
        """Give them the grace period, too, unless an immediate stop was requested, or is while they run."""
        limit = HURRIED_HOOKS if self._hurry.is_set() else self._config.grace
        self._hurry.clear()
        hooks = asyncio.create_task(self._hooks.after_worker_stopped.run_all())
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait([hooks, hurry], timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if not hooks.done():
            logger.warning("on_stop hooks still ran after %g seconds, or a second signal; they are abandoned", limit)
        await end_tasks(hooks, hurry)

    # ---------------------------------------------------------------------------------------------- between the hooks

    async def _run_between_rests(self) -> None:
        await self._run_with_pools()
        while self._rest.is_on and not self._stopping.is_set():
            await self._rest.end(self._stopping)
            if not self._stopping.is_set():
                await self._run_with_pools()

    async def _run_with_pools(self) -> None:
        async with self._pools() as (engine_pool, kept, transactions):
            store = Store(Pooled(engine_pool), namespace=self._config.namespace)
            change = asyncio.Event()
            loop = asyncio.get_running_loop()

            def look_again(_: str) -> None:
                loop.call_soon_threadsafe(change.set)  # what is declared while we run is declared in any thread

            unwatch = self._selection.watch(look_again)
            self._parts = self._make_parts(engine_pool, kept, transactions, change)
            try:
                await self._work(self._parts, store)
            finally:
                unwatch()
                self._parts.runners.close_threads()

    @asynccontextmanager
    async def _pools(self) -> AsyncIterator[tuple[Pool, Kept, Transactions]]:
        """The pool of the engine's statements, the connection of calls, and the transactions of handlers."""
        needs = sum(listener.concurrency for listener in self._selection.work().listeners if listener.transactional)
        size = max(self._config.pool_size, needs)
        engine_pool = await create_pool(self._config, size=self._config.pool_size, for_engine=True)
        # Apart from the engine's: calls keep it, and it is not opened where no procedure is served.
        calls_pool = await create_pool(self._config, size=1, for_engine=True)
        kept = Kept(calls_pool)
        handler_pool = await create_pool(self._config, size=size, for_users=True)
        transactions = Transactions(
            self._config.dsn, pool=handler_pool, size=size, behind_pooler=self._config.behind_pooler
        )
        try:
            yield engine_pool, kept, transactions
        finally:
            await transactions.close()
            await _close_pool(handler_pool)
            await _close_pool(engine_pool)
            await _close_pool(calls_pool, kept)

    def _make_parts(self, pool: Pool, kept: Kept, transactions: Transactions, change: asyncio.Event) -> Parts:
        config, telemetry, membership = self._config, self._telemetry, self._membership
        store = Store(Pooled(pool), namespace=config.namespace)
        runners = Runners(
            config=config,
            telemetry=telemetry,
            hooks=self._hooks,
            middleware=self._middleware,
            sender=self._sender,
            pool=pool,
            store=store,
            transactions=transactions,
            membership=membership,
            ended=change.set,
        )
        server = Server(
            Store(kept, namespace=config.namespace),
            config=config,
            telemetry=telemetry,
            hooks=self._hooks,
            middleware=self._middleware,
            worker_id=membership.claimant,
            failed=change.set,
        )
        return Parts(
            config=config,
            selection=self._selection,
            membership=membership,
            schemas=self._schemas,
            restarts=Restarts(telemetry=telemetry, wake=change.set),
            runners=runners,
            server=server,
            tasks=self._make_tasks(store, change),
            leader=Leader(
                config, telemetry=telemetry, neighbours=runners, company=membership, slumber=self._slumber, store=store
            ),
            slumber=self._slumber,
            change=change,
        )

    def _make_tasks(self, store: Store, change: asyncio.Event) -> Tasks:
        return Tasks(
            store,
            config=self._config,
            telemetry=self._telemetry,
            instruments=self._hooks.instruments,
            worker_id=self._membership.claimant,
            is_asleep=lambda: self._slumber.is_asleep,
            failed=change.set,
        )

    def _rise(self) -> None:
        if self._parts:
            self._parts.rise()

    async def _work(self, parts: Parts, store: Store) -> None:
        session_loop = SessionLoop(
            parts,
            config=self._config,
            telemetry=self._telemetry,
            membership=self._membership,
            schemas=self._schemas,
            slumber=self._slumber,
            ready=self.ready,
        )
        upkeep = Upkeep(
            parts,
            config=self._config,
            membership=self._membership,
            store=store,
            is_resting=lambda: self._rest.is_on,
        )
        loops = [
            asyncio.create_task(session_loop.run(), name="pgbus session"),
            asyncio.create_task(upkeep.run(self.ready), name="pgbus upkeep"),
        ]
        stopping = asyncio.create_task(self._stopping.wait())
        resting = asyncio.create_task(self._rest.begin(parts), name="pgbus rest")
        stall_watch = StallWatch()
        try:
            await asyncio.wait([*loops, stopping, resting], return_when=asyncio.FIRST_COMPLETED)
            # While both loops go on: the session holds our lock, and the upkeep extends the leases, until the last
            # claim is settled.
            await self._drain(parts, store, failed=any(loop.done() for loop in loops))
        finally:
            stall_watch.stop()
            await end_tasks(stopping, resting, *loops)
        # Last: both sessions are closed and their locks free, so the next leader can take the lock at once. None is
        # needed while the bus sleeps.
        await self._membership.leave(store, wakes_others=not self._rest.is_on)
        if error := failure_of(loops):
            raise error

    async def _say_what_runs(self, parts: Parts, *, limit: float) -> None:
        if self._stopping.is_set() or not self._rest.is_on:  # else nothing runs, and the worker only rests
            await say_what_runs(lambda: [] if self._hurry.is_set() else work_of(parts), limit=limit)

    async def _drain(self, parts: Parts, store: Store, *, failed: bool) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (0.0 if self._hurry.is_set() else self._config.grace)
        grace = deadline - loop.time()
        saying = asyncio.create_task(self._say_what_runs(parts, limit=grace))
        await asyncio.gather(parts.runners.stop(grace=grace), parts.tasks.stop(grace=grace))
        # A claim whose answer was under way: while our lock is held, or else a leader would count it for a death. If we
        # lead, after a look of the sequencer that may be claiming for us. When it is an error that ends us, it may be
        # that claim's: then let it be counted.
        if not failed:
            with contextlib.suppress(*DATABASE_ERRORS):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await parts.leases.return_forgotten(parts.leader.store or store)
        # Last: handlers that finish may call our own procedures.
        await parts.server.stop(grace=0.0 if self._hurry.is_set() else max(0.0, deadline - loop.time()))
        await end_tasks(saying)


async def _close_pool(pool: Pool, kept: Kept | None = None) -> None:
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT):
            if kept:  # a pool that is closed waits for all its connections
                await kept.give_back()
            await pool.close()
    except TimeoutError:
        pool.terminate()
