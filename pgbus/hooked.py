"""What is sent and executed between hooks: events on their way out, calls on both sides.

Each has a form for code that blocks, whose plain hooks run in the caller's own thread.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias
from uuid import UUID

from pgbus.errors import RemoteError
from pgbus.hooks import Block, Hooks, Moment
from pgbus.messages import EventMessage, OpenEvent, ResultMessage, RpcMessage
from pgbus.outbox import Limits, OutboxRow, encode_headers, revise
from pgbus.outcomes import format_traceback
from pgbus.values.codec import encode

Insert: TypeAlias = Callable[[Sequence[OutboxRow]], Awaitable[list[UUID]]]
InsertHere: TypeAlias = Callable[[Sequence[OutboxRow]], list[UUID]]

# So many settled events of a listener may have hooks under way before it begins further ones.
HOOKS_UNDER_WAY = 100

logger = logging.getLogger("pgbus")

# --------------------------------------------------------------------------------------------------------------- events


async def send(hooks: Hooks, rows: Sequence[OutboxRow], insert: Insert, *, limits: Limits) -> list[OpenEvent]:
    """Insert what the hooks before it have made of the rows; the events as they were sent."""
    messages = [OpenEvent.of(row.message()) for row in rows]
    for message in messages:
        await hooks.before_event_sent.run(event_message=message)
    ids = await insert(_revised(rows, messages, limits))
    for message in _sent(messages, ids):
        await hooks.after_event_sent.run(event_message=message)
    return messages


def send_here(
    hooks: Hooks, rows: Sequence[OutboxRow], insert: InsertHere, *, limits: Limits, block: Block
) -> list[OpenEvent]:
    """`send` for code that blocks."""
    messages = [OpenEvent.of(row.message()) for row in rows]
    for message in messages:
        hooks.before_event_sent.run_here(block, event_message=message)
    ids = insert(_revised(rows, messages, limits))
    for message in _sent(messages, ids):
        hooks.after_event_sent.run_here(block, event_message=message)
    return messages


def _revised(rows: Sequence[OutboxRow], messages: Sequence[OpenEvent], limits: Limits) -> list[OutboxRow]:
    return [revise(row, message, limits=limits) for row, message in zip(rows, messages, strict=True)]


def _sent(messages: Sequence[OpenEvent], ids: Sequence[UUID]) -> Iterator[OpenEvent]:
    for message, event_id in zip(messages, ids, strict=True):
        message.event_id = event_id
        yield message


async def prepare(before: Moment, event: EventMessage) -> OpenEvent:
    """The event as a listener gets it: a copy with what the hooks before its execution made of it."""
    message = OpenEvent.of(event)
    await before.run(event_message=message)
    message.close(
        raw=encode(message.payload, limit=sys.maxsize) if message.has_new_payload else message.raw,
        raw_headers=encode_headers(message.headers) if message.has_new_headers else message.raw_headers,
    )
    return message


class Afterwards:
    """Calls the hooks after a listener's events are settled, and does not hold up the next settlement."""

    def __init__(self, after: Moment) -> None:
        self._after = after
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_full = False
        """Whether the listener should wait, as its hooks are slower than it is."""

    def begin(self, messages: Iterable[EventMessage]) -> None:
        """Call the hooks for these events; what one raises is logged."""
        for message in messages:
            task = asyncio.create_task(self._after.run_all(event_message=message))
            self._tasks.add(task)
            task.add_done_callback(self._forget)
        self.is_full = len(self._tasks) >= HOOKS_UNDER_WAY

    async def wait_for_room(self) -> None:
        """Wait until it is not full."""
        while self.is_full:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def finish(self, limit: float) -> None:
        """Wait for the hooks under way, for at most `limit` seconds; then cancel them."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=limit)
        if late:
            logger.warning(
                "%d after_event_execution hooks still ran after %.1f seconds; they are left", len(late), limit
            )
            self.abandon()

    def abandon(self) -> None:
        """Do not wait for hooks any longer."""
        for task in self._tasks:
            task.cancel()

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.is_full = len(self._tasks) >= HOOKS_UNDER_WAY


# ---------------------------------------------------------------------------------------------------------------- calls


def rpc_message(procedure: str, arguments: Mapping[str, object], *, call_id: UUID) -> RpcMessage:
    """The message of a call."""
    api_name, _, name = procedure.rpartition(".")
    return RpcMessage(api_name=api_name, procedure_name=name, kwargs=dict(arguments), id=str(call_id))


async def exchange(before: Moment, after: Moment, message: RpcMessage, work: Callable[[], Awaitable[Any]]) -> Any:
    """Do the work of a call; its result, as the hooks after it have left it. They are also called when it failed."""
    await before.run(rpc_message=message)
    try:
        result = await work()
    except GeneratorExit:  # the event loop is gone
        raise
    except BaseException as error:
        await after.run(rpc_message=message, result_message=_failed(message, error))
        raise
    outcome = _succeeded(message, result)
    await after.run(rpc_message=message, result_message=outcome)
    return outcome.result


def exchange_here(before: Moment, after: Moment, message: RpcMessage, work: Callable[[], Any], *, block: Block) -> Any:
    """`exchange` for code that blocks."""
    before.run_here(block, rpc_message=message)
    try:
        result = work()
    except BaseException as error:
        after.run_here(block, rpc_message=message, result_message=_failed(message, error))
        raise
    outcome = _succeeded(message, result)
    after.run_here(block, rpc_message=message, result_message=outcome)
    return outcome.result


def _succeeded(message: RpcMessage, result: Any) -> ResultMessage:
    return ResultMessage(
        api_name=message.api_name, procedure_name=message.procedure_name, rpc_message_id=message.id, result=result
    )


def _failed(message: RpcMessage, error: BaseException) -> ResultMessage:
    return ResultMessage(
        api_name=message.api_name,
        procedure_name=message.procedure_name,
        rpc_message_id=message.id,
        result=repr(error),
        error=True,
        trace=error.remote_traceback if isinstance(error, RemoteError) else format_traceback(error),
    )
