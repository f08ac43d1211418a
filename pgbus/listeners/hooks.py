"""A listener's events between hooks: before they are executed, and after they are settled."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterable

from pgbus.codec.headers import encode_headers
from pgbus.codec.payloads import encode
from pgbus.handlers.hooks import Moment
from pgbus.messages import EventMessage, OpenEvent

logger = logging.getLogger("pgbus")

# The number of settled events of a listener that may have running hooks before it starts further events.
HOOKS_UNDER_WAY = 100


async def prepare(before: Moment, event: EventMessage) -> OpenEvent:
    """The event as a listener gets it: a copy with what the hooks before its execution made of it."""
    message = OpenEvent.of(event)
    await before.run(event_message=message)
    message.close(
        raw=encode(message.payload, limit=sys.maxsize) if message.has_new_payload else message.raw,
        raw_headers=encode_headers(message.headers) if message.has_new_headers else message.raw_headers,
    )
    return message


class Afterwards:
    """Calls the hooks after a listener's events are settled, and does not hold up the next settlement."""

    def __init__(self, after: Moment) -> None:
        self._after = after
        # Kept here until they end, as the event loop holds its tasks by weak references only.
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_full = False
        """Whether the listener should wait, as its hooks are slower than it is."""

    def begin(self, messages: Iterable[EventMessage]) -> None:
        """Call the hooks for these events; what one raises is logged."""
        for message in messages:
            task = asyncio.create_task(self._after.run_all(event_message=message))
            self._tasks.add(task)
            task.add_done_callback(self._forget)
        self.is_full = len(self._tasks) >= HOOKS_UNDER_WAY

    async def wait_for_room(self) -> None:
        """Wait until it is not full."""
        while self.is_full:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def finish(self, limit: float) -> None:
        """Wait for the hooks under way, for at most `limit` seconds; then cancel them."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=limit)
        if late:
            logger.warning(
                "%d after_event_execution hooks still ran after %.1f seconds; they are abandoned", len(late), limit
            )
            self.abandon()

    def abandon(self) -> None:
        """Do not wait for hooks any longer."""
        for task in self._tasks:
            task.cancel()

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.is_full = len(self._tasks) >= HOOKS_UNDER_WAY
