"""Writing in batches what tasks hand in one by one: while one batch is written, the next one gathers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from pgbus.aio.tasks import end_tasks

T = TypeVar("T")


class Batches(Generic[T]):
    """Hands items to `write` in the order in which they came, never two batches at a time.

    `write` returns, for each item, None or the error that its own task gets; if it raises, all of them get that.
    """

    def __init__(self, write: Callable[[Sequence[T]], Awaitable[Sequence[Exception | None]]], *, limit: int) -> None:
        self._write = write
        self._limit = limit
        # Added to by `put`, and taken from the front by the one task that writes: so two batches never overlap.
        self._waiting: list[tuple[T, asyncio.Future[None]]] = []
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="pgbus relay batches")

    async def put(self, item: T) -> None:
        """Return once the item is written; raises what `write` says of it."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        self._wake.set()
        await done

    async def close(self) -> None:
        """Write nothing more; who still waits is cancelled."""
        await end_tasks(self._task)
        for _, done in self._waiting:
            done.cancel()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            batch, self._waiting = self._waiting[: self._limit], self._waiting[self._limit :]
            if not self._waiting:
                self._wake.clear()
            # Who has stopped waiting, by a timeout say, hands the same in again.
            batch = [one for one in batch if not one[1].done()]
            if batch:
                await self._write_batch(batch)

    async def _write_batch(self, batch: Sequence[tuple[T, asyncio.Future[None]]]) -> None:
        results: Sequence[Exception | None]
        try:
            results = await self._write([item for item, _ in batch])
        except Exception as error:
            results = [error] * len(batch)
        except BaseException:
            for _, done in batch:
                done.cancel()
            raise
        for (_, done), failure in zip(batch, results, strict=True):
            if not done.done():
                if failure is None:
                    done.set_result(None)
                else:
                    done.set_exception(failure)
