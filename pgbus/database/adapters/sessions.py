"""Transactions of SQLAlchemy that are closed without a commit, after an event was published in them: the event is lost.

So it happens to what is published after `commit()`, and on a connection that nobody commits. That publishing comes
first, and rows and a commit follow, is as it should be; so it shows only at the end of the transaction.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, NestedTransaction, RootTransaction, event
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

from pgbus.database.adapters.outside import Place

_SWALLOWED = (
    "an event was published here in a transaction that SQLAlchemy then closed without a commit, so it was not "
    "published: publish before `commit()`, or commit once more"
)


@dataclass(frozen=True, slots=True)
class _Published:
    """Where an event was published last in a transaction; `savepoint` is the one that it is in, if it is in one."""

    place: Place
    savepoint: NestedTransaction | None
    task: asyncio.Task[Any] | None


# Weak: a transaction that its user forgets is not kept by us. Threads add and remove entries of their own transactions
# only.
_published: WeakKeyDictionary[RootTransaction, _Published] = WeakKeyDictionary()


def watch(connection: Connection) -> None:
    """Warn if the connection's transaction, in which an event was just published, is closed without a commit."""
    transaction = connection.get_transaction()
    if transaction is None:
        return
    if not isinstance(transaction, _Watched):
        # Not by SQLAlchemy's events: to listen on each connection costs more than the INSERT, and on the engine it
        # would slow down all that the user does.
        transaction.__class__ = _watched(type(transaction))
    _published[transaction] = _Published(Place.here(), connection.get_nested_transaction(), _current_task())


@contextmanager
def watching(session: Session) -> Iterator[None]:
    """Watch the transaction of a session to which the block adds an event, which has no connection before its flush."""
    yield
    adding = _added.get(session)
    if adding is None:
        adding = _added[session] = _Adding(session)
    adding.published = _Published(Place.here(), None, _current_task())


class _Adding:
    """Listens to one session, and to no others."""

    def __init__(self, session: Session) -> None:
        self.published: _Published | None = None
        event.listen(session, "after_commit", self._end)
        event.listen(session, "after_rollback", self._end)  # before the transaction ends, and the other one after it
        event.listen(session, "after_soft_rollback", self._end)
        event.listen(session, "after_transaction_end", self._end_of_transaction)

    def _end(self, *_: object) -> None:  # also with the savepoint that was rolled back
        self.published = None

    def _end_of_transaction(self, _: Session, transaction: SessionTransaction) -> None:
        if transaction.parent is not None:
            return
        published, self.published = self.published, None
        if published and not (_is_failing(published.task) or _is_removed()):
            published.place.warn(_SWALLOWED)


_added: WeakKeyDictionary[Session, _Adding] = WeakKeyDictionary()


class _Watched(RootTransaction):
    """A transaction that warns. `commit` and `rollback` are the user's word; `close` is what is left without either."""

    __slots__ = ()

    def close(self) -> None:
        """End it, and warn if it was open."""
        published = _published.pop(self, None) if self.is_active else None
        super().close()
        if published and not (_is_taken_back(published) or _is_failing(published.task) or _is_removed()):
            published.place.warn(_SWALLOWED)


def _watched(cls: type[RootTransaction]) -> type[RootTransaction]:
    found = _classes.get(cls)
    if found is None:
        found = _classes[cls] = type(cls.__name__, (_Watched, cls), {"__slots__": ()})
    return found


_classes: dict[type[RootTransaction], type[RootTransaction]] = {RootTransaction: _Watched}


def _is_taken_back(published: _Published) -> bool:
    """Whether it may have been rolled back with its savepoint, which no longer tells how it ended."""
    return published.savepoint is not None and not published.savepoint.is_active


def _is_failing(task: asyncio.Task[Any] | None) -> bool:
    """Whether a block ends with an exception: it closes its session as well, and rolling back is what that is for."""
    if sys.exc_info()[0] is not None:
        return True
    # SQLAlchemy's async blocks close in a task of their own, which sees nothing of the exception.
    return any(frame.f_code.co_name == "__aexit__" and _was_given_error(frame) for frame in _frames(task))


def _is_removed() -> bool:
    """Whether a scoped session is removed: frameworks do so after an error, too, that they have answered by then."""
    frame: FrameType | None = sys._getframe(1)
    while frame and frame.f_code is not scoped_session.remove.__code__:
        frame = frame.f_back
    return frame is not None


def _was_given_error(frame: FrameType) -> bool:
    names = frame.f_code.co_varnames
    return len(names) > 1 and frame.f_locals.get(names[1]) is not None


def _frames(task: asyncio.Task[Any] | None) -> Iterator[FrameType]:
    """The frames of a task that waits, from the outermost on."""
    awaited: Any = task and task.get_coro()
    while awaited is not None:
        if frame := getattr(awaited, "cr_frame", None):
            yield frame
        awaited = getattr(awaited, "cr_await", None)


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
