"""An event loop in a thread of its own, for calls that block."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

# Seconds that calls under way have to end by themselves once what they use is closed. The rest is cancelled.
FAREWELL = 2.0


class PortalClosed(Exception):
    """The portal takes no more calls: make another one."""


class Portal:
    """Runs coroutines on its loop while the caller's thread waits. `on_close` runs on the loop before it ends."""

    def __init__(self, on_close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._on_close = on_close
        self._loop = asyncio.new_event_loop()
        # Held while a call is handed to the loop, and while `_is_closing` is set. So each call comes before the end of
        # the loop, or is refused: what the loop got after its end would never run, and its thread would wait forever.
        self._lock = threading.Lock()
        self._is_closing = False
        # The calls that run, for the loop alone.
        self._calls: set[asyncio.Task[Any]] = set()
        # A daemon: a program that forgets to close the bus still ends, and `atexit` closes it then.
        self._thread = threading.Thread(target=self._loop.run_forever, name="pgbus-portal", daemon=True)
        self._thread.start()
        self._pid = os.getpid()
        atexit.register(self.close)

    @property
    def is_ours(self) -> bool:
        """Whether this process made it; a forked child has the object, but not the thread."""
        return self._pid == os.getpid()

    def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run `work` on the loop, and return its result; raises what it raises.

        Raises PortalClosed if nothing of it was begun, and CancelledError if it still ran when the portal was closed.
        """

        async def run() -> T:
            task = asyncio.current_task()
            assert task is not None
            self._calls.add(task)
            try:
                return await work()
            finally:
                self._calls.discard(task)

        with self._lock:
            if self._is_closing:
                raise PortalClosed
            future = asyncio.run_coroutine_threadsafe(run(), self._loop)
        try:
            return future.result()
        except BaseException:  # Ctrl-C: what nobody waits for any more is called off
            future.cancel()
            raise

    def close(self) -> None:
        """End the loop and its thread; may be called twice."""
        atexit.unregister(self.close)
        if not self.is_ours:  # a forked child: its copy of the lock may be held by a thread that it does not have
            return
        with self._lock:
            if self._is_closing:
                return
            self._is_closing = True
        try:
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _end(self) -> None:
        try:
            await self._on_close()
        finally:
            await self._end_calls()

    async def _end_calls(self) -> None:
        # Not cancelled at once: a publish whose INSERT `on_close` has waited for needs a turn of the loop to tell its
        # thread so.
        late = set(self._calls)
        if late:
            _, late = await asyncio.wait(late, timeout=FAREWELL)
        for call in late:
            call.cancel()
        if late:
            await asyncio.wait(late, timeout=FAREWELL)
