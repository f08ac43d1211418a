"""Calls between hooks, on both sides.

Each has a form for code that blocks, whose plain hooks run in the caller's own thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

from pgbus.errors import RemoteError
from pgbus.handlers.hooks import Block, Moment
from pgbus.handlers.outcomes import format_traceback
from pgbus.messages import ResultMessage, RpcMessage
from pgbus.topics import split_name


def rpc_message(
    procedure: str, arguments: Mapping[str, object], *, call_id: UUID, headers: Mapping[str, str]
) -> RpcMessage:
    """The message of a call."""
    api_name, name = split_name(procedure)
    return RpcMessage(
        api_name=api_name, procedure_name=name, kwargs=dict(arguments), headers=dict(headers), id=str(call_id)
    )


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
