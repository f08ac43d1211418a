"""The inbox: what makes a repeated event a no-op for a handler that writes to another database than the bus's.

A table in that database has a row for each event that a listener has taken. The row is written in the transaction that
writes the handler's own rows, so that all of them are there, or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn, Protocol

from pgbus.config import Config
from pgbus.database.adapters import async_executor, sync_executor
from pgbus.database.faults import sqlstate_of
from pgbus.database.sql import DEFAULT_NAMESPACE
from pgbus.database.statements import inbox
from pgbus.database.statements.bound import Bound
from pgbus.errors import ConfigurationError
from pgbus.messages import EventMessage

_UNDEFINED_TABLE = "42P01"


class Attempt(Protocol):
    """The attributes of a handler's Context that the inbox needs."""

    @property
    def listener_name(self) -> str:
        """The listener; each listener takes an event once."""
        ...

    @property
    def events(self) -> Sequence[EventMessage]:
        """One event, or those of a batch."""
        ...


def ddl(*, namespace: str = DEFAULT_NAMESPACE) -> list[str]:
    """Return the statements that create the inbox in the other database; they may be repeated.

    Raises ConfigurationError for a namespace that cannot be.
    """
    Config(namespace=namespace)  # which has the rules for it
    return inbox.create_inbox(namespace=namespace)


async def take(context: Attempt, *, using: object, namespace: str = DEFAULT_NAMESPACE) -> bool:
    """Record that the listener takes the event; returns True if it is new, False if it was taken before.

    - `context`: the handler's `pgbus.Context`, of one event.
    - `using`: the connection or session of the other database, in the transaction that the handler writes in: all that
      `Bus.publish` takes.

    If another attempt at the same event is running, this waits for its end. Raises ConfigurationError for a batch, or
    where there is no inbox; ConnectionUnusableError where `using` is in no transaction.
    """
    return (await take_batch(_one(context), using=using, namespace=namespace))[0]


async def take_batch(context: Attempt, *, using: object, namespace: str = DEFAULT_NAMESPACE) -> list[bool]:
    """`take` for a handler of batches: for each event of `context.events`, whether it is new."""
    try:
        taken = await async_executor(using).fetch(*_take(context, namespace))
    except Exception as error:
        _explain(error, namespace)
    return _are_new(context, taken)


async def forget(*, older_than: float, using: object, namespace: str = DEFAULT_NAMESPACE) -> int:
    """Delete the rows of events that were taken more than `older_than` seconds ago; returns their number."""
    rows = await async_executor(using).fetch(*inbox.forget_taken_events(namespace=namespace, age=older_than))
    return int(rows[0][0])


def take_sync(context: Attempt, *, using: object, namespace: str = DEFAULT_NAMESPACE) -> bool:
    """`take` for a connection or session that blocks."""
    return take_batch_sync(_one(context), using=using, namespace=namespace)[0]


def take_batch_sync(context: Attempt, *, using: object, namespace: str = DEFAULT_NAMESPACE) -> list[bool]:
    """`take_batch` for a connection or session that blocks."""
    try:
        taken = sync_executor(using).fetch(*_take(context, namespace))
    except Exception as error:
        _explain(error, namespace)
    return _are_new(context, taken)


def forget_sync(*, older_than: float, using: object, namespace: str = DEFAULT_NAMESPACE) -> int:
    """`forget` for a connection or session that blocks."""
    rows = sync_executor(using).fetch(*inbox.forget_taken_events(namespace=namespace, age=older_than))
    return int(rows[0][0])


def _one(context: Attempt) -> Attempt:
    if len(context.events) != 1:
        raise ConfigurationError("the handler takes batches, of which some events may be new: ask take_batch")
    return context


def _take(context: Attempt, namespace: str) -> Bound:
    ids = list(dict.fromkeys(event.event_id for event in context.events))
    return inbox.take_events(namespace=namespace, listener_name=context.listener_name, event_ids=ids)


def _are_new(context: Attempt, taken: Sequence[Sequence[Any]]) -> list[bool]:
    new = {str(row[0]) for row in taken}
    answers: list[bool] = []
    for event in context.events:
        event_id = str(event.event_id)
        answers.append(event_id in new)
        new.discard(event_id)  # twice in one batch is once
    return answers


def _explain(error: Exception, namespace: str) -> NoReturn:
    if sqlstate_of(error) != _UNDEFINED_TABLE:
        raise error
    raise ConfigurationError(
        f"there is no table {namespace}.inbox in the database of `using`: run there what `pgbus db inbox` prints"
    ) from error
