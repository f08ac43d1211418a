"""Coroutines for code that blocks: they run on one event loop of the bus's own, in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pgbus.aio.portal import Portal, PortalClosed
from pgbus.aio.threads import is_loop_running
from pgbus.errors import CannotBlockHere

T = TypeVar("T")


class BlockingCalls:
    """Runs coroutines while the calling thread waits; the loop and its thread are started when they are needed.

    `on_close` is awaited on that loop before it ends.
    """

    def __init__(self, on_close: Callable[[], Awaitable[None]]) -> None:
        self._on_close = on_close
        # Guarded by the lock, which is never held while a call runs.
        self._portal: Portal | None = None
        self._lock = threading.Lock()

    def block(self, work: Callable[[], Awaitable[T]], call: str) -> T:
        """Run `work`; raises CannotBlockHere, which names the call, on the thread of a running event loop."""
        refuse_to_block(call)
        return self.run(work)

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run `work`, and return its result; raises what it raises."""
        while True:
            with self._lock:  # threads that call at the same time share one portal
                if self._portal is None or not self._portal.is_ours:  # a fork has the object, but not the thread
                    self._portal = Portal(self._end)
                portal = self._portal
            try:
                return portal.call(work)
            except PortalClosed:
                # Someone closes the bus since we looked: this is the next call, which starts another one.
                with self._lock:
                    if self._portal is portal:
                        self._portal = None

    async def close_async(self) -> None:
        """Close the loop and its connections, as `close` does, from async code."""
        if portal := self._take_portal():
            await asyncio.to_thread(portal.close)

    def close(self) -> None:
        """End the loop and its thread; the next call starts new ones."""
        if portal := self._take_portal():
            portal.close()

    def _take_portal(self) -> Portal | None:
        with self._lock:  # a portal that a thread starts at this moment is taken, too, or stays for the next call
            portal, self._portal = self._portal, None
        return portal

    async def _end(self) -> None:
        await self._on_close()


def refuse_to_block(call: str) -> None:
    """Raise CannotBlockHere on the thread of a running event loop."""
    if is_loop_running():
        raise CannotBlockHere(
            f"{call}_sync would block the event loop that runs on this thread; await {call}, or pass `using` a "
            "blocking connection"
        )
