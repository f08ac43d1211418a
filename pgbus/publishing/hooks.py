"""Events on their way out, between hooks, and within instruments.

There is a form for code that blocks, whose plain hooks run in the caller's own thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias
from uuid import UUID

from pgbus.handlers.hooks import Block, Hooks
from pgbus.messages import OpenEvent
from pgbus.publishing.outbox import Limits, revise
from pgbus.publishing.rows import OutboxRow
from pgbus.telemetry import Publish

Insert: TypeAlias = Callable[[Sequence[OutboxRow]], Awaitable[list[UUID]]]
InsertHere: TypeAlias = Callable[[Sequence[OutboxRow]], list[UUID]]


async def send(
    hooks: Hooks, rows: Sequence[OutboxRow], insert: Insert, *, in_bulk: bool, limits: Limits
) -> list[OpenEvent]:
    """Insert the rows as the hooks before it have changed them; returns the events as they were sent."""
    messages = [OpenEvent.of(row.message()) for row in rows]
    for message in messages:
        await hooks.before_event_sent.run(event_message=message)
    with hooks.instruments.around(Publish(messages, in_bulk)):
        # Revised within the instruments, which may add headers, and all before the INSERT: what a hook has spoilt is
        # refused before anything is sent.
        ids = await insert(_revised(rows, messages, limits))
        _note_ids(messages, ids)
    for message in messages:
        await hooks.after_event_sent.run(event_message=message)
    return messages


def send_here(
    hooks: Hooks, rows: Sequence[OutboxRow], insert: InsertHere, *, in_bulk: bool, limits: Limits, block: Block
) -> list[OpenEvent]:
    """`send` for code that blocks."""
    messages = [OpenEvent.of(row.message()) for row in rows]
    for message in messages:
        hooks.before_event_sent.run_here(block, event_message=message)
    with hooks.instruments.around(Publish(messages, in_bulk)):
        ids = insert(_revised(rows, messages, limits))
        _note_ids(messages, ids)
    for message in messages:
        hooks.after_event_sent.run_here(block, event_message=message)
    return messages


def _revised(rows: Sequence[OutboxRow], messages: Sequence[OpenEvent], limits: Limits) -> list[OutboxRow]:
    return [revise(row, message, limits=limits) for row, message in zip(rows, messages, strict=True)]


def _note_ids(messages: Sequence[OpenEvent], ids: Sequence[UUID]) -> None:
    """An event that a dedup key has barred has the id of the one that stands for it."""
    for message, event_id in zip(messages, ids, strict=True):
        message.event_id = event_id
