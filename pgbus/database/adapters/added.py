"""SQLAlchemy sessions in code that cannot wait: an event is added to the session, and goes with its next flush.

A rollback, and one to a savepoint, takes it back as it does any other object that was added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from pgbus.database.adapters.outbox_mapping import mapped_event
from pgbus.database.adapters.sessions import watching
from pgbus.database.sql import Statement
from pgbus.errors import ConnectionUnusableError


class AddedTo:
    """A value for `publish_sync(using=...)` that adds the event to an SQLAlchemy session, async or blocking, without
    I/O.

    It is for a single event that is due at once: the session inserts it when it flushes, at the latest before it
    commits. Raises ConnectionUnusableError for what is not a session. `rows` are what was added, in order.
    """

    def __init__(self, session: object) -> None:
        self._session = _plain_session(session)
        self.rows: list[object] = []

    def fetch(self, statement: Statement, values: Mapping[str, object]) -> Sequence[Sequence[Any]]:
        """Add the event of `insert_event`."""
        if statement.name != "insert_event":
            raise ConnectionUnusableError(
                "an event with a dedup key, a delay or an instant cannot wait for the session's flush: publish it with "
                "`await bus.publish(..., using=session)`"
            )
        row = mapped_event(statement.namespace)()
        for name, value in values.items():
            setattr(row, name, value)
        with watching(self._session):
            self._session.add(row)
        self.rows.append(row)
        return []


def _plain_session(session: object) -> Session:
    if isinstance(session, async_scoped_session | scoped_session):
        session = session()
    if isinstance(session, AsyncSession):
        return session.sync_session
    if isinstance(session, Session):
        return session
    raise ConnectionUnusableError(
        f"{type(session).__qualname__} is not an SQLAlchemy session, to which an event could be added without waiting: "
        "publish with `await bus.publish(..., using=...)`"
    )
