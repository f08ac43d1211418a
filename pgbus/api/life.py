"""A worker in a program of one's own: what `pgbus run` does, as methods of `bus.client`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from pgbus.aio.blocking import BlockingCalls
from pgbus.aio.threads import is_loop_running
from pgbus.errors import CannotBlockHere, ConfigurationError
from pgbus.handlers.hooks import Hooks
from pgbus.publishing.sender import Sender
from pgbus.rpc.calls import Calls
from pgbus.schema import Catalog

logger = logging.getLogger("pgbus")

_HEEDED = (signal.SIGTERM, signal.SIGINT)


class RunnableWorker(Protocol):
    """The methods of `pgbus.worker.worker.Worker` that start and stop it."""

    ready: asyncio.Event

    @property
    def leads(self) -> bool:
        """Whether it is the leader now."""

    @property
    def is_resting(self) -> bool:
        """Whether it has closed its sessions while the bus sleeps, or is about to."""

    def wake(self) -> None:
        """Have it open its sessions again."""

    def why_not_ready(self) -> str | None:
        """Return the reason why it does not work now; None if it does."""

    async def run(self) -> None:
        """Run the worker until it is stopped."""

    def request_stop(self) -> None:
        """Stop; the second time, without letting handlers finish."""

    async def stop(self) -> None:
        """Request a stop, unless that was done, and wait for the end."""


class Life:
    """The part of `bus.client` that starts and stops things."""

    schema: Catalog
    hook_registry: Hooks

    def __init__(
        self, *, sender: Sender, calls: Calls, blocking: BlockingCalls, make_worker: Callable[[], RunnableWorker]
    ) -> None:
        self.sender = sender
        self.calls = calls
        self.blocking = blocking
        self._make_worker = make_worker
        self._own: tuple[RunnableWorker, asyncio.Task[None]] | None = None
        # Every worker of the bus in this process, also one that `pgbus run` has started.
        self._workers: dict[RunnableWorker, asyncio.AbstractEventLoop] = {}

    # ------------------------------------------------------------------------------------------------------- workers

    def run_forever(self) -> int:
        """Run a worker until SIGTERM, Ctrl-C or `request_shutdown()`, and return an exit code, for code that blocks.

        The code is 0, or 1 after an error that ended the worker, which is logged. The signals are heard where this is
        called on the main thread, and the program's own handlers are back afterwards. Raises CannotBlockHere on the
        thread of a running event loop.
        """
        refuse_to_block(blocking="run_forever", awaitable="start_worker")
        try:
            # With a factory, the runner leaves the event loop alone that the program has set for this thread.
            with _restored_handlers(), asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
                runner.run(self._run_until_told())
        except Exception:
            logger.exception("the worker failed")
            return 1
        return 0

    async def start_worker(self) -> None:
        """Start a worker in the running event loop, and return once its listeners and procedures are at work.

        A worker goes on by itself when the database goes away or refuses something for a while, and when a handler, a
        listener or the leader fails. Only a fault of code or schema that concerns all of it ends it: that is logged,
        `raise_errors` and `stop_worker` raise it, and to start a worker again is up to the program.

        Raises what the start hooks do, SchemaVersionError, DatabaseUnreachableError; and ConfigurationError if this
        was called before and the worker still runs.
        """
        if self._own and not self._own[1].done():
            raise ConfigurationError(
                "this bus already has a worker in this event loop; await `bus.client.stop_worker()` first"
            )
        worker = self._make_worker()
        task = asyncio.create_task(worker.run(), name="pgbus worker")
        ready = asyncio.create_task(worker.ready.wait())
        self._own = worker, task
        self.note_start(worker)  # before it has begun: from here on a signal must not be lost
        try:
            await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await worker.stop()
            raise
        finally:
            ready.cancel()
        if task.done():
            await task
        task.add_done_callback(_log_failure)

    async def stop_worker(self) -> None:
        """End what `start_worker` has started: running handlers finish within the grace period, in seconds.

        Raises what had ended the worker before, if it was an error. Does nothing where there is no worker.
        """
        if self._own:
            (worker, task), self._own = self._own, None
            await worker.stop()
            await task

    async def raise_errors(self) -> None:
        """Wait for the end of what `start_worker` has started, and raise the error that ended it, if one did."""
        if self._own:
            await asyncio.shield(self._own[1])

    def request_shutdown(self) -> None:
        """Have the workers of this bus in this process stop, as SIGTERM does; from any thread, also in a handler.

        Running handlers finish within the grace period; the second time, nothing is waited for.
        """
        for worker, loop in tuple(self._workers.items()):
            loop.call_soon_threadsafe(worker.request_stop)

    def wake_workers(self) -> None:
        """Have workers of this bus in this process look for work that have closed their sessions, as `idle_close` says.

        From any thread. Publishing on this bus does it; call it for what another process has published.
        """
        for worker, loop in tuple(self._workers.items()):
            if worker.is_resting:
                loop.call_soon_threadsafe(worker.wake)

    @property
    def workers(self) -> Sequence[RunnableWorker]:
        """The workers of this bus that run in this process."""
        return list(self._workers)

    def note_start(self, worker: RunnableWorker) -> None:
        """Know of a worker that runs in the running event loop."""
        self._workers[worker] = asyncio.get_running_loop()

    def note_end(self, worker: RunnableWorker) -> None:
        """Forget a worker that has ended."""
        self._workers.pop(worker, None)

    async def _run_until_told(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in _HEEDED:
                asyncio.get_running_loop().add_signal_handler(number, self.request_shutdown)
        try:
            await self.start_worker()
            await self.raise_errors()
        finally:
            await self.close_async()

    # --------------------------------------------------------------------------------------------------- connections

    async def lazy_load_now(self) -> None:
        """Connect and read the schemas of all services now, and not when they are first needed.

        Raises DatabaseUnreachableError, and SchemaVersionError for a database that `pgbus db upgrade` has to prepare.
        """
        if not self.sender.has_double:
            await self.sender.connect()
            await self.schema.ensure_loaded_from_bus()

    def close(self) -> None:
        """Close the connections of code that blocks. They are opened again if need be, so this may be done twice."""
        self.blocking.close()
        self.hook_registry.close()

    async def close_async(self) -> None:
        """Close the connections of the running event loop, and those of code that blocks."""
        await self.close_here()
        await self.blocking.close_async()
        self.hook_registry.close()

    async def close_here(self) -> None:
        """Close the connections of the running event loop."""
        await self.calls.close_here()
        await self.sender.close_here()


def _log_failure(task: asyncio.Task[None]) -> None:
    """Say that a worker has ended: its program may not be waiting for that."""
    if not task.cancelled() and (error := task.exception()):
        logger.critical("the worker has ended: %s: %s", type(error).__name__, error)


@contextlib.contextmanager
def _restored_handlers() -> Iterator[None]:
    """Put the program's signal handlers back at the end: a loop that closes leaves the defaults in their place."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _HEEDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: set by something other than Python, which cannot put it back
                signal.signal(number, handler)


def refuse_to_block(*, blocking: str, awaitable: str) -> None:
    """Raise CannotBlockHere on the thread of a running event loop."""
    if is_loop_running():
        raise CannotBlockHere(
            f"`{blocking}` would block the event loop that runs on this thread; write `await ... .{awaitable}(...)`"
        )
