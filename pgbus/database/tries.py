"""Trying again what the database refuses or cannot be reached for, with growing pauses and one line in the log."""

from __future__ import annotations

import logging

from pgbus.aio.backoff import Backoff
from pgbus.database.faults import is_fatal, is_link_error

logger = logging.getLogger("pgbus")

# Seconds between tries of a worker's loops when the database does not answer: nobody waits for one try of them.
LINK_PAUSE = 0.2
LINK_PAUSE_LIMIT = 5.0
# Failures in a row of a link before a loop logs it: when the whole database is away, the session says so for all.
QUIET_TRIES = 4


class Tries:
    """The tries of one loop, or of one action: says once that they fail, and once that they succeed again.

    `what` completes the sentence "cannot ...".
    """

    def __init__(self, what: str, *, first: float = LINK_PAUSE, limit: float = LINK_PAUSE_LIMIT) -> None:
        self._what = what
        self._backoff = Backoff(first, limit)
        # Once it has, a right or a value that is refused is someone's mistake, which may be corrected while we wait.
        self._has_worked = False
        # Whether the failure was logged: then its end is, too.
        self._told = False

    def pause_after(self, error: Exception) -> float:
        """Seconds to wait before the next try; raises the error if no further try can help."""
        if is_fatal(error, has_worked=self._has_worked):
            raise error
        pause = self._backoff.next()
        if not self._told and (not is_link_error(error) or self._backoff.tries >= QUIET_TRIES):
            self._told = True
            logger.warning("cannot %s, trying again: %s: %s", self._what, type(error).__name__, error)
        return pause

    def worked(self) -> None:
        """Note that a try has succeeded: the next pause is the shortest again."""
        if self._told:
            logger.info("can %s again", self._what)
        self._told = False
        self._has_worked = True
        self._backoff.reset()
