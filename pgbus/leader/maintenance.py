"""The leader's housekeeping: claims of dead workers, periods and partitions, rows that have outlived their use."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import asyncpg

from pgbus.config import Config
from pgbus.database.store import Store
from pgbus.telemetry import ClaimsFreed, Telemetry

logger = logging.getLogger("pgbus")

T = TypeVar("T")

# Seconds.
CLAIMS_INTERVAL = 1.0
CHORES_INTERVAL = 60.0
# An event is tried alone from the second death of its worker on; this many deaths make it a dead letter.
MAX_CRASHES = 5
PRUNE_BATCH = 10_000
FREE_BATCH = 1_000
# Seconds between looks for lost claims from the bottom, at least, and how many times as long as the last one took. They
# find claims whose leases ran out while a transactional handler had locked them: a lock needs no lease.
BOTTOM_INTERVAL = 10.0
BOTTOM_SHARE = 20.0
# Calls may come by the thousand each second, and must go as fast; in bites, so that the sequencer need not wait long.
CALLS_INTERVAL = 10.0
CALLS_BITE = 1_000
CALLS_BITES = 20


class Maintenance:
    """Runs on the session that leads, beside the sequencer."""

    def __init__(
        self,
        store: Store,
        *,
        config: Config,
        telemetry: Telemetry,
        worker_id: int,
        wake_listeners: Callable[[Iterable[int]], None],
        partition: Callable[[], int],
        begin_period: Callable[[], None],
    ) -> None:
        self._store = store
        self._config = config
        self._telemetry = telemetry
        self._worker_id = worker_id
        self._wake_listeners = wake_listeners
        self._partition = partition
        self._begin_period = begin_period
        self._refused: set[int] = set()
        self._lease_floor = -math.inf
        self._bottom_at = 0.0

    async def run(self) -> None:
        """Keep house until cancelled, or until the session breaks."""
        chores_at = calls_at = 0.0
        clock = asyncio.get_running_loop().time
        while True:
            await _unless_barred(self._free_claims())
            if clock() >= calls_at:
                calls_at = clock() + (0.0 if await _unless_barred(self._end_calls()) else CALLS_INTERVAL)
            if clock() >= chores_at:
                chores_at = clock() + CHORES_INTERVAL
                await self.do_chores()
            await asyncio.sleep(CLAIMS_INTERVAL)

    async def do_chores(self) -> None:
        """One round of what is done once a minute."""
        fetch, config = self._store.fetch, self._config
        await _unless_barred(self._turn_periods())
        await _unless_barred(self._drop_expired_partitions())
        await _unless_barred(self._in_bites("release_lanes", work_channel=self._store.work_channel))
        await _unless_barred(fetch("expire_declarations", ttl=config.worker_ttl))
        await _unless_barred(fetch("prune_dedup_keys", batch=PRUNE_BATCH))
        await _unless_barred(fetch("prune_schedule_runs", retention=config.schedule_retention, batch=PRUNE_BATCH))
        await _unless_barred(fetch("prune_workers", worker_ttl=config.worker_ttl, worker_id=self._worker_id))

    async def _free_claims(self) -> None:
        began = time.monotonic()
        from_bottom = began >= self._bottom_at
        look = await self._store.free_claims(
            max_crashes=MAX_CRASHES, lease_floor=-math.inf if from_bottom else self._lease_floor, batch=FREE_BATCH
        )
        if from_bottom:
            self._bottom_at = began + max(BOTTOM_INTERVAL, BOTTOM_SHARE * (time.monotonic() - began))
        self._lease_floor = look.looked_at
        if look.freed >= FREE_BATCH:
            self._bottom_at = 0.0
        if look.freed:
            logger.warning("took back %d claims of workers that died", look.freed)
            self._telemetry.emit(ClaimsFreed(look.freed))
            self._wake_listeners(look.listener_ids)

    async def _end_calls(self) -> bool:
        """Take calls that nobody served in time off the queue, and forget those that are past their retention.

        Says whether there are more.
        """
        more = await self._in_bites("expire_requests")
        return await self._in_bites("prune_calls", retention=self._config.rpc_retention) or more

    async def _in_bites(self, statement: str, **values: object) -> bool:
        for _ in range(CALLS_BITES):
            done, *_ = await self._store.fetch_one(statement, batch=CALLS_BITE, **values)
            if done < CALLS_BITE:
                return False
        return True

    async def _turn_periods(self) -> None:
        """Have the next partition ready, and begin it when the first event of the current one is a period old."""
        current = self._partition()
        for number in (current, current + 1):
            await self._store.fetch("open_partition", number=number)
        rows = await self._store.fetch("find_partition_start", number=current)
        if rows and rows[0]["age"] >= self._config.partition_period:
            self._begin_period()

    async def _drop_expired_partitions(self) -> None:
        if self._config.retention is None:
            return
        expired = await self._store.fetch(
            "find_expired_partitions", current=self._partition(), retention=self._config.retention
        )
        for row in expired:
            await self._drop_partition(row["number"])

    async def _drop_partition(self, number: int) -> None:
        try:
            await self._store.fetch("drop_partition", number=number)
        except asyncpg.ObjectInUseError as error:
            if number not in self._refused:
                self._refused.add(number)
                logger.warning("retention keeps partition %d of the log: %s", number, error)
        else:
            logger.info("retention dropped partition %d of the log", number)


async def _unless_barred(duty: Awaitable[T]) -> T | None:
    """Do it, or leave it for the next time: the sequencer, on the same session, waits meanwhile.

    Someone holds a lock, say because he reads or backs up the whole log just now; or it took too long.
    """
    try:
        return await duty
    except (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError) as error:
        logger.info("a chore is put off: %s", error)
        return None
