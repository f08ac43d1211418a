"""A thread that notices when the event loop hangs, and says where.

While an async handler blocks the loop, nothing else of the process runs: it claims nothing, settles nothing, and does
not lead.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback

logger = logging.getLogger("pgbus")

# Seconds between beats of the loop, and how many may be missing.
BEAT = 1.0
MISSING_BEATS = 5
# Lines of the stack that are logged: the innermost calls.
FRAMES = 6


class StallWatch:
    """Watches the event loop that starts it, and logs each stall once."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        # Written by the loop and read by the thread, which needs no lock: it asks only whether the number has changed.
        self._beats = 0
        self._ended = threading.Event()
        self._beat()
        self._thread = threading.Thread(target=self._watch, name="pgbus stall watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread that watches the event loop."""
        # The thread is not waited for: it ends with its next tick, and a daemon keeps no process alive.
        self._ended.set()
        self._timer.cancel()

    def _beat(self) -> None:
        self._beats += 1
        self._timer = self._loop.call_later(BEAT, self._beat)

    def _watch(self) -> None:
        seen = missing = 0
        while not self._ended.wait(BEAT):
            # Counted in our own ticks: a process that was stopped as a whole has not missed any.
            missing = 0 if self._beats != seen else missing + 1
            seen = self._beats
            if missing == MISSING_BEATS:
                self._tell()

    def _tell(self) -> None:
        frame = sys._current_frames().get(self._loop_thread)
        logger.error(
            "the event loop hangs: nothing has run on it for %.0f s. An async handler must not block; make it a plain "
            "function, which runs in a thread. It is here:\n%s",
            BEAT * MISSING_BEATS,
            "".join(traceback.format_stack(frame)[-FRAMES:]).rstrip(),
        )
