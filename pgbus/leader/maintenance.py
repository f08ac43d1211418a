"""The leader's maintenance: what dead workers had claimed, partitions of the log, and rows that nobody needs."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeVar

from pgbus.aio.clock import now
from pgbus.config import Config
from pgbus.database.faults import LockNotAvailable, ObjectInUse, QueryCancelled, is_passing
from pgbus.database.statements import deliveries, maintenance, schedules
from pgbus.database.store import Store
from pgbus.telemetry import ClaimsFreed, Telemetry

logger = logging.getLogger("pgbus")

T = TypeVar("T")

# Seconds. A worker that is without a session at two looks in a row is dead: one that has lost its session has another
# within less, also on a busy machine, where a connection takes half a second.
CLAIMS_INTERVAL = 0.75
CHORES_INTERVAL = 60.0
# Seconds after the database was away in which nobody is taken for dead: all workers have lost their sessions, and are
# about to come back, each when its pause is over. Leases, which nobody could extend, mean nothing either.
RETURN_TIME = 5.0
# An event is tried alone from the second death of its worker on; this many deaths make it a dead letter.
MAX_CRASHES = 5
# Rows of one statement: the sequencer waits for it.
PRUNE_BATCH = 10_000
FREE_BATCH = 1_000
# Seconds between searches for overdue claims, at least.
SEARCH_INTERVAL = 10.0
# Thousands of calls may come each second, and must be deleted as fast. In small batches: the sequencer uses the same
# session, and waits for each statement.
CALLS_INTERVAL = 10.0
SMALL_BATCH = 1_000
SMALL_BATCHES = 20


class Maintenance:
    """Runs on the leader's session, between statements of the sequencer; what takes long, on the pool.

    `returned_at`: when our own worker had a session again after it had lost one, by the engine's clock. `turn` is held
    over each round: who holds it has the session for himself, or lets the bus sleep.
    """

    def __init__(
        self,
        store: Store,
        *,
        pool: Store,
        config: Config,
        telemetry: Telemetry,
        worker_id: int,
        returned_at: float,
        wake_listeners: Callable[[Mapping[int, Iterable[int]]], None],
        partition: Callable[[], int],
        begin_period: Callable[[], None],
        turn: asyncio.Lock,
    ) -> None:
        self._store = store
        self._pool = pool
        self._config = config
        self._telemetry = telemetry
        self._worker_id = worker_id
        self._wake_listeners = wake_listeners
        self._partition = partition
        self._begin_period = begin_period
        self._turn = turn
        # Partitions whose refusal was logged: once each, and not every minute.
        self._refused: set[int] = set()
        self._returned_at = returned_at
        # Workers that the last look found without a session, for claims of events and for runs of schedules. The next
        # look counts as dead only those that it finds so again.
        self._absent: frozenset[int] = frozenset()
        # Of these, whose claims are all free. While there are others, each look reads all claims of a lease's duration.
        self._freed: frozenset[int] = frozenset()
        self._absent_from_schedules: frozenset[int] = frozenset()
        # Claims whose lease ended before this were looked at; the scan begins here, above their dead rows.
        self._lease_floor = -math.inf
        # Those among them that a search has found since.
        self._overdue: Sequence[int] = ()
        self._calls_at = self._chores_at = -math.inf

    async def run(self) -> None:
        """Do maintenance until cancelled, or until the session breaks."""
        async with self._turn:
            all_are_back_at = await self._find_return()
        while True:
            async with self._turn:
                await self._do_round(frees=now() >= all_are_back_at)
            await asyncio.sleep(CLAIMS_INTERVAL)

    async def search(self) -> None:
        """Look for claims whose leases ended below the floor, until cancelled.

        They ran out while a transactional handler had locked them, as a lock needs no lease, or before they had
        committed. While someone holds a snapshot, this reads the dead rows of all claims: the sequencer does not wait.
        """
        pause = SEARCH_INTERVAL
        while True:
            await asyncio.sleep(pause)
            async with self._turn:
                pass  # The bus is awake.
            began = time.monotonic()
            await self._find_overdue()
            took = time.monotonic() - began
            pause = deliveries.pause_after_scan(took, least=SEARCH_INTERVAL) - took

    async def _find_overdue(self) -> None:
        try:
            self._overdue = await deliveries.find_overdue_claims(self._pool, before=self._lease_floor, batch=FREE_BATCH)
        except Exception as error:
            if not is_passing(error):
                raise
            logger.info("the search for overdue claims is postponed: %s", error)

    async def _do_round(self, *, frees: bool) -> None:
        if frees:
            if await _unless_blocked(self._free_claims()):
                await _unless_blocked(self._free_schedules())
            else:
                # Not looked at this time: absent at two looks in a row means just that.
                self._absent_from_schedules = frozenset()
        if now() >= self._calls_at:
            self._calls_at = now() + (0.0 if await _unless_blocked(self._end_calls()) else CALLS_INTERVAL)
        if now() >= self._chores_at:
            self._chores_at = now() + CHORES_INTERVAL
            await self.do_chores()

    async def do_chores(self) -> None:
        """One round of what is done once a minute."""
        store, config = self._store, self._config
        await _unless_blocked(self._turn_periods())
        await _unless_blocked(self._drop_expired_partitions())
        await _unless_blocked(_in_small_batches(partial(maintenance.release_lanes, store)))
        await _unless_blocked(maintenance.expire_declarations(store, ttl=config.worker_ttl))
        await _unless_blocked(maintenance.prune_dedup_keys(store, batch=PRUNE_BATCH))
        await _unless_blocked(
            maintenance.prune_schedule_runs(store, retention=config.schedule_retention, batch=PRUNE_BATCH)
        )
        await _unless_blocked(maintenance.prune_workers(store, worker_ttl=config.worker_ttl, worker_id=self._worker_id))

    async def _find_return(self) -> float:
        """When every worker that lives has a session again, by the engine's clock."""
        # A failover leaves the server's age as it is, but then our own session was lost.
        server_started_at = now() - await maintenance.find_server_age(self._store)
        return max(self._returned_at, server_started_at) + RETURN_TIME

    async def _free_claims(self) -> bool:
        """Free the claims of dead workers; whether there are claimed runs to look at, too."""
        overdue, self._overdue = self._overdue, ()
        look = await deliveries.free_claims(
            self._store,
            absent=self._absent,
            max_crashes=MAX_CRASHES,
            lease_floor=self._lease_floor,
            overdue=overdue,
            # At first also those of workers that are not registered any more.
            all_leases=self._lease_floor == -math.inf or bool(self._absent - self._freed),
            batch=FREE_BATCH,
        )
        # Who lives again, and dies, is looked for once more.
        self._freed = look.absent & (self._absent if look.is_done else self._freed)
        self._absent = look.absent
        # Else there may be more of them.
        if look.freed < FREE_BATCH:
            self._lease_floor = look.looked_at
        if look.freed:
            logger.warning("freed %d claims of workers that died", look.freed)
            self._telemetry.emit(ClaimsFreed(look.freed))
            self._wake_listeners(dict.fromkeys(look.listener_ids, ()))
        return look.has_runs

    async def _free_schedules(self) -> None:
        look = await schedules.free_schedules(self._store, absent=self._absent_from_schedules)
        self._absent_from_schedules = look.absent
        if look.names:
            logger.warning("runs of workers that died are due again, of the schedules %s", ", ".join(look.names))

    async def _end_calls(self) -> bool:
        """Take calls that nobody served in time off the queue, and forget those that are past their retention.

        Says whether there are more.
        """
        more = await _in_small_batches(partial(maintenance.expire_requests, self._store))
        retention = self._config.rpc_retention
        return await _in_small_batches(partial(maintenance.prune_calls, self._store, retention=retention)) or more

    async def _turn_periods(self) -> None:
        """Have the next partition ready, and begin it when the first event of the current one is a period old."""
        # The next one is opened long before it is needed: it takes locks, for which it may have to try as long as
        # someone reads the log.
        current = self._partition()
        for number in (current, current + 1):
            await maintenance.open_partition(self._store, number=number)
        age = await maintenance.find_partition_age(self._store, number=current)
        if age is not None and age >= self._config.partition_period:
            self._begin_period()

    async def _drop_expired_partitions(self) -> None:
        if self._config.retention is None:
            return
        expired = await maintenance.find_expired_partitions(
            self._store, current=self._partition(), retention=self._config.retention
        )
        for number in expired:
            await self._drop_partition(number)

    async def _drop_partition(self, number: int) -> None:
        try:
            await maintenance.drop_partition(self._store, number=number)
        except ObjectInUse as error:
            if number not in self._refused:
                self._refused.add(number)
                logger.warning("retention keeps partition %d of the log: %s", number, error)
        else:
            logger.info("retention dropped partition %d of the log", number)


class _Batched(Protocol):
    """A statement that works on up to `batch` rows, and returns how many it found."""

    def __call__(self, *, batch: int) -> Awaitable[int]: ...


async def _in_small_batches(statement: _Batched) -> bool:
    """Whether there may be more after the last batch."""
    for _ in range(SMALL_BATCHES):
        if await statement(batch=SMALL_BATCH) < SMALL_BATCH:
            return False
    return True


async def _unless_blocked(duty: Awaitable[T]) -> T | None:
    """Do it, or leave it for the next time: the sequencer, on the same session, waits meanwhile.

    Someone holds a lock, say because he reads or backs up the whole log just now; or it took too long.
    """
    try:
        return await duty
    except (LockNotAvailable, QueryCancelled) as error:
        logger.info("a maintenance step is postponed: %s", error)
        return None
