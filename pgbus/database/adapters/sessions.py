"""Sessions of SQLAlchemy that begin a transaction for an event alone, and close without a commit: the event is lost.

So it happens to what is published after `commit()`. That publishing comes first, and rows and a commit follow, is as it
should be; so it shows only at the end of the transaction.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

from pgbus.database.adapters.outside import Place

_SWALLOWED = (
    "an event was published here in a transaction that its SQLAlchemy session then closed without a commit, so it was "
    "not published: publish before `commit()`, or commit once more"
)


@contextmanager
def watching(session: Session) -> Iterator[None]:
    """Watch the transaction that publishing begins in the block, if it does, until its end."""
    is_open = session.in_transaction()
    yield
    if not is_open and session.in_transaction():
        watch = _watches.get(session)
        if watch is None:
            watch = _watches[session] = _Watch(session)
        watch.place = Place.here()


class _Watch:
    """Listens to one session, and to no others."""

    def __init__(self, session: Session) -> None:
        self.place: Place | None = None
        event.listen(session, "after_commit", self._end)
        event.listen(session, "after_rollback", self._end)
        event.listen(session, "after_transaction_end", self._end_of_transaction)

    def _end(self, _: Session) -> None:
        self.place = None

    def _end_of_transaction(self, _: Session, transaction: SessionTransaction) -> None:
        if transaction.parent is not None:
            return
        place, self.place = self.place, None
        # A block that ends with an exception closes its session as well, and then rolling back is what it is for.
        if place and sys.exc_info()[0] is None:
            place.warn(_SWALLOWED)


_watches: WeakKeyDictionary[Session, _Watch] = WeakKeyDictionary()
