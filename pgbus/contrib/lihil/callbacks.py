"""Calls the callbacks of `emit` when an event is committed with a session's transaction.

The event is a row that is added to the session (`AddedTo`), which takes it back with a rollback, and with one to a
savepoint; so whether it is still in the session after the commit says whether it was stored.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

from sqlalchemy import event
from sqlalchemy.orm import Session


class Callbacks:
    """Those of one session, in the order of their events."""

    def __init__(self, session: Session) -> None:
        self._waiting: list[tuple[object, Callable[[], object]]] = []
        event.listen(session, "after_commit", self._tell)

    def add(self, row: object, callback: Callable[[], object]) -> None:
        """Call this once the row is committed, and never if it is not."""
        self._waiting.append((row, callback))

    def _tell(self, session: Session) -> None:
        if session.in_nested_transaction():  # it was a savepoint that was released
            return
        waiting, self._waiting = self._waiting, []
        for row, callback in waiting:
            if row in session:
                callback()


_of_sessions: WeakKeyDictionary[Session, Callbacks] = WeakKeyDictionary()


def callbacks_of(session: Session) -> Callbacks:
    """Those of a session; they last as long as it does."""
    if session not in _of_sessions:
        _of_sessions[session] = Callbacks(session)
    return _of_sessions[session]
