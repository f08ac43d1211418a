"""An event loop in a thread of its own, for calls that block."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Portal:
    """Runs coroutines on its loop while the caller's thread waits. `on_close` runs on the loop before it ends."""

    def __init__(self, on_close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._on_close = on_close
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pgbus-portal", daemon=True)
        self._thread.start()
        self._pid = os.getpid()
        atexit.register(self.close)

    @property
    def is_ours(self) -> bool:
        """Whether this process made it; a forked child has the object, but not the thread."""
        return self._pid == os.getpid()

    def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run `work` on the loop, and return its result; raises what it raises."""

        async def run() -> T:
            return await work()

        future = asyncio.run_coroutine_threadsafe(run(), self._loop)
        try:
            return future.result()
        except BaseException:  # Ctrl-C: what nobody waits for any more is called off
            future.cancel()
            raise

    def close(self) -> None:
        """End the loop and its thread; may be called twice."""
        atexit.unregister(self.close)
        if self._loop.is_closed() or not self.is_ours:
            return
        asyncio.run_coroutine_threadsafe(self._on_close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
