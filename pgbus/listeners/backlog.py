"""Between claiming and handling: the events that a listener has claimed, and no slot has begun."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from pgbus.listeners.settlement import HeldClaim


class Backlog:
    """The queue of one listener's claims, and how many of its `slots` are at work.

    The claimer adds, the slots take; all on one event loop, so that the counts change between two `await`s only.
    """

    def __init__(self, *, slots: int) -> None:
        self.slots = slots
        self.queue: deque[HeldClaim] = deque()
        self.waiting = 0
        """Events in the queue that no slot has begun; a claim stays in it until its last event is begun."""
        self.running = 0
        """Slots that are at work."""
        self.has_room = asyncio.Event()
        """Set when the claimer should look whether it may claim; it clears it."""
        self.has_more = asyncio.Event()
        """Set when claims were added; the slots clear it when they find none."""
        self.slot_is_free = asyncio.Event()
        """Set when a slot has done its work; who waits for that clears it."""

    def add(self, held_claims: Iterable[HeldClaim], *, events: int) -> None:
        """Add new claims, which have `events` events in all."""
        self.queue.extend(held_claims)
        self.waiting += events
        self.has_more.set()
