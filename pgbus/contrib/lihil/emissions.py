"""What `emit` was given in a session's transaction: inserted as that commits, and forgotten if it rolls back.

`emit` cannot await, and an async session needs that to send a statement; in its commit SQLAlchemy can.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction


@dataclass(frozen=True, slots=True, eq=False)
class Emission:
    """An event to insert, and what to call when it is committed; `within` is the transaction or savepoint it is of."""

    insert: Callable[[], object]
    committed: Callable[[], object]
    within: SessionTransaction | None


class Emissions:
    """Those of one session, in order."""

    def __init__(self, session: Session) -> None:
        self._waiting: list[Emission] = []
        self._inserted: list[Emission] = []
        event.listen(session, "before_commit", self._insert)
        event.listen(session, "after_commit", self._tell)
        event.listen(session, "after_soft_rollback", self._forget)

    def add(self, session: Session, *, insert: Callable[[], object], committed: Callable[[], object]) -> None:
        """Have an event inserted before the session's transaction, or its savepoint, commits."""
        within = session.get_nested_transaction() or session.get_transaction()
        self._waiting.append(Emission(insert, committed, within))

    def _insert(self, _: Session) -> None:
        while self._waiting:
            emission = self._waiting.pop(0)
            emission.insert()
            self._inserted.append(emission)

    def _tell(self, session: Session) -> None:
        if session.in_nested_transaction():  # it was a savepoint that was released
            return
        inserted, self._inserted = self._inserted, []
        for emission in inserted:
            emission.committed()

    def _forget(self, _: Session, ended: SessionTransaction) -> None:
        is_whole = ended.parent is None
        self._waiting = [one for one in self._waiting if not is_whole and one.within is not ended]
        self._inserted = [one for one in self._inserted if not is_whole and one.within is not ended]


_of_sessions: WeakKeyDictionary[Session, Emissions] = WeakKeyDictionary()


def emissions_of(session: Any) -> Emissions:
    """Those of an async session."""
    sync: Session = session.sync_session
    if sync not in _of_sessions:
        _of_sessions[sync] = Emissions(sync)
    return _of_sessions[sync]
