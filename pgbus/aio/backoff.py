"""Pauses between tries: how long to wait before the next one."""

from __future__ import annotations

import random

# Seconds: the first and the longest pause of what begins again after a fault of code.
RESTART_PAUSE = 1.0
RESTART_LIMIT = 60.0


class Backoff:
    """Pauses in seconds: `first`, then each twice as long as the last, up to `limit`.

    Of each, up to half is taken off by chance, so that many who failed together do not try again together.
    """

    def __init__(self, first: float, limit: float) -> None:
        self._first = first
        self._limit = limit
        self._longest = first  # the next pause, before the part that is taken off
        self.tries = 0
        """How often in a row it failed."""

    def next(self) -> float:
        """How long to wait now, as one more try has failed."""
        self.tries += 1
        pause = self._longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter is not a secret
        self._longest = min(self._limit, self._longest * 2)
        return pause

    def reset(self) -> None:
        """Note that a try has succeeded: the next pause is the shortest again."""
        self.tries = 0
        self._longest = self._first


class RestartBackoff(Backoff):
    """The pauses before a part that a fault of code has ended is started again."""

    def __init__(self) -> None:
        super().__init__(RESTART_PAUSE, RESTART_LIMIT)

    def next_after(self, *, age: float) -> float:
        """Return the pause in seconds after a failure at the age of `age` seconds; the shortest again after a long
        run.
        """
        if age > self._limit:
            self.reset()
        return self.next()
