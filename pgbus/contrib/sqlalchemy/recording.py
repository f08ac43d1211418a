"""Events that aggregates record while they change, published by the flush that writes the change."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Unpack

from sqlalchemy import event as events
from sqlalchemy import insert, inspect
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import flag_dirty

from pgbus.contrib.sqlalchemy.outbox_event import OutboxEvent, OutboxEventOptions, columns_of
from pgbus.publishing.outbox import Limits, prepare
from pgbus.publishing.rows import OutboxRow

_RECORDED = "pgbus.recorded"
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class _Recorded:
    number: int  # the order of recording, over all aggregates
    event: Any
    topic: str | None
    options: OutboxEventOptions

    def row(self) -> OutboxRow:
        event = self.event() if _is_late(self.event) else self.event
        return prepare(event, topic=self.topic, limits=Limits(), **self.options)


def record_event(
    aggregate: object, event: object, *, topic: str | None = None, **options: Unpack[OutboxEventOptions]
) -> None:
    """Have an event published by the flush that writes this mapped object, in its transaction.

    - `event`: as OutboxEvent takes it; or a function without arguments that makes it once the flush has been done, when
      the database has given new objects their ids.
    - `topic`, `options`: those of OutboxEvent.

    Events enter the log in the order of recording. What was recorded and not flushed is forgotten when the session
    rolls back; a new object that was never written keeps its events, and publishes them if it is added again. Raises
    InvalidEventError, at the flush for what a function makes.
    """
    recorded = _Recorded(next(_numbers), event, topic, options)
    if not _is_late(event):
        recorded.row()  # refused here, where the mistake is
    inspect(aggregate, raiseerr=True).info.setdefault(_RECORDED, []).append(recorded)
    # An object that has no other change goes through the flush, too, and is not lost to the garbage collector before.
    flag_dirty(aggregate)


def _is_late(event: object) -> bool:
    return isinstance(event, Callable) and not isinstance(event, type)  # type: ignore[arg-type] # it is one to Python


def _publish_recorded(session: Session, _: object) -> None:
    """Insert what the objects have recorded, within the flush: a savepoint that it precedes must not have it."""
    recorded = [one for aggregate in (*session.new, *session.dirty, *session.deleted) for one in _take(aggregate)]
    if not recorded:
        return
    connection = session.connection(bind_arguments={"mapper": inspect(OutboxEvent)})
    for one in sorted(recorded, key=lambda one: one.number):
        connection.execute(insert(OutboxEvent).values(columns_of(one.row())))


def _forget_recorded(session: Session, _: object) -> None:
    for aggregate in session.identity_map.values():
        list(_take(aggregate))


def _take(aggregate: object) -> Iterator[_Recorded]:
    yield from inspect(aggregate, raiseerr=True).info.pop(_RECORDED, ())


events.listen(Session, "after_flush", _publish_recorded)
events.listen(Session, "after_soft_rollback", _forget_recorded)
