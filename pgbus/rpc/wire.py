"""The contents of calls, and the conversion of exceptions to responses and back. No I/O."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from pgbus.codec.annotations import bare
from pgbus.codec.payloads import decoder, encode, misfit
from pgbus.config import ApiConfig
from pgbus.database.statements.rpc import Request, Response
from pgbus.errors import (
    CallCancelled,
    CallError,
    CallTimeout,
    ConfigurationError,
    DeformError,
    InvalidArguments,
    InvalidEventError,
    InvalidResult,
    NoWorkerAvailable,
    RemoteError,
    SuddenDeathException,
    UnhandledEventError,
    UnsendableArguments,
    WorkerLost,
)
from pgbus.handlers.outcomes import MAX_ERROR_LENGTH, clip, error_text, format_traceback
from pgbus.rpc.procedures import Procedure, error_name

# A batch is one statement: at most this many calls, and this many characters of JSON. One call may have more: then it
# goes alone.
BATCH_CALLS = 500
BATCH_SIZE = 8 * 1024 * 1024
# PostgreSQL's notifications carry less than 8,000 bytes; a call_id takes 37 of them with its comma.
NOTIFIED_CALLS = 200
NOTIFIED_BYTES = 7_900
# Results in notifications, in bytes of UTF-8: one of them, and all of one notification. In another encoding of the
# database they may be longer by a third.
RESULT_BYTES = 2_000
RESULTS_BYTES = 5_800

Sized = TypeVar("Sized", Request, Response)


def take_batch(waiting: list[Sized]) -> list[Sized]:
    """Take as many from the front of `waiting` as one statement may carry, at least one."""
    size = 0
    for index, item in enumerate(waiting):
        size += item.size
        if index == BATCH_CALLS or (index and size > BATCH_SIZE):
            batch = waiting[:index]
            del waiting[:index]
            return batch
    batch = waiting[:]
    waiting.clear()
    return batch


def join_names(names: Iterable[str]) -> str:
    """Names as a notification's payload; empty, which means any name, when they are too long for one."""
    payload = ",".join(dict.fromkeys(names))
    return payload if len(payload) <= NOTIFIED_BYTES else ""


def join_ids(call_ids: Iterable[UUID]) -> Iterator[str]:
    """Call ids as the payloads of as many notifications as they need."""
    texts = [str(call_id) for call_id in call_ids]
    for start in range(0, len(texts), NOTIFIED_CALLS):
        yield ",".join(texts[start : start + NOTIFIED_CALLS])


def join_results(responses: Iterable[Response]) -> Iterator[tuple[str, list[UUID]]]:
    """Results as the payloads of as many notifications as they need, each with the calls it has results of."""
    parts: list[str] = []
    call_ids: list[UUID] = []
    size = 0
    for response in responses:
        part = f'"{response.call_id}":{response.result}'
        more = len(part.encode()) + 1
        if parts and (size + more > RESULTS_BYTES or len(parts) == NOTIFIED_CALLS):
            yield "{" + ",".join(parts) + "}", call_ids
            parts, call_ids, size = [], [], 0
        parts.append(part)
        call_ids.append(response.call_id)
        size += more
    if parts:
        yield "{" + ",".join(parts) + "}", call_ids


def is_small(response: Response) -> bool:
    """Whether the response may travel in a notification: a result of a few bytes."""
    result = response.result
    return result is not None and len(result) <= RESULT_BYTES and len(result.encode()) <= RESULT_BYTES


def split_results(payload: str) -> dict[UUID, str]:
    """The results of a notification, as JSON text by call; none if it is not one of ours: anyone may notify."""
    try:
        results = _read_results(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return {}
    return {call_id: bytes(result).decode() for call_id, result in results.items()}


_read_results = msgspec.json.Decoder(dict[UUID, msgspec.Raw]).decode


def split_ids(payload: str) -> Iterator[UUID]:
    """Return the call ids of a notification. Anyone may notify, so anything that is not an id is skipped."""
    for text in payload.split(","):
        with contextlib.suppress(ValueError):
            yield UUID(text)


def seal(call_id: UUID) -> UUID:
    """Stands for a call's id where anyone may listen: those who know the id recognise it, and nobody learns the id."""
    return UUID(bytes=sha256(call_id.bytes).digest()[:16])


# ------------------------------------------------------------------------------------------------ what people pass


def encode_arguments(procedure: str, arguments: Mapping[str, object], *, limit: int) -> str:
    """The arguments as JSON text of at most `limit` bytes; raises UnsendableArguments, or InvalidArguments."""
    try:
        return encode(dict(arguments), limit=limit, field="arguments")
    except DeformError as error:
        raise UnsendableArguments(error.field, error.reason, procedure=procedure) from error
    except InvalidEventError as error:
        raise InvalidArguments(
            f"the arguments of {procedure} cannot be sent: {error.reason}", procedure=procedure
        ) from error


def result_receiver(
    procedure: str, returns: Any, *, declared: Procedure | None, settings: ApiConfig
) -> Callable[[str], Any]:
    """A function from a result's JSON text to what the caller gets: of the type `returns`, else of that declared.

    The function raises InvalidResult for what does not fit, unless `settings` say not to look; then that comes as plain
    JSON values. Raises ConfigurationError for a type into which nothing can be decoded.
    """
    is_asked_for = returns is not Any
    if not is_asked_for and declared:
        returns = declared.check.type
    is_cast = settings.cast_values or is_asked_for
    if bare(returns) is Any or not (is_cast or settings.validate_incoming):
        return msgspec.json.decode
    try:
        decode = decoder(returns)
    except ConfigurationError as error:
        raise ConfigurationError(f"returns={returns!r}: no result can be decoded into it: {error.__cause__}") from error

    def receive(text: str) -> Any:
        try:
            value = decode(text)
        except UnhandledEventError as error:
            if not settings.validate_incoming:
                return msgspec.json.decode(text)
            what = "what `returns` asks for" if is_asked_for else "its annotation here"
            reason = misfit(error.__cause__ or error)
            raise InvalidResult(
                f"the result of {procedure} does not fit {what}: {reason}", procedure=procedure
            ) from error
        return value if is_cast else msgspec.json.decode(text)

    return receive


# ------------------------------------------------------------------------------------------------- from an exception


def answer(call_id: UUID, result: str) -> Response:
    """The response that brings a result."""
    return Response(call_id, "answered", result=result)


def failure(call_id: UUID, error: BaseException) -> Response:
    """The response for what a procedure, or the way to it, raised."""
    text = clip(error_text(error), MAX_ERROR_LENGTH)
    match error:
        case InvalidArguments():
            return Response(call_id, "refused", error=text)
        case InvalidResult():
            return Response(call_id, "invalid", error=text)
        case SuddenDeathException():
            return Response(call_id, "lost", error=f"the procedure raised SuddenDeathException: {text}")
    return Response(
        call_id,
        "failed",
        error_type=clip(error_name(type(error)), MAX_ERROR_LENGTH),
        error=text,
        error_arguments=_encode_arguments(error),
        traceback=format_traceback(error),
    )


def _encode_arguments(error: BaseException) -> str | None:
    try:
        return encode(error.args, limit=MAX_ERROR_LENGTH)
    except InvalidEventError:
        return None


# --------------------------------------------------------------------------------------------------- to an exception


def to_error(response: Response, *, procedure: str, allowed: Mapping[str, type[Exception]]) -> Exception:
    """The exception that a response other than an answer means to the caller.

    A class in `allowed`, which is by qualified name, is raised as itself, with the RemoteError as its cause.
    """
    if response.outcome == "failed":
        return _remote_error(response, procedure=procedure, allowed=allowed)
    worker = f" (worker {response.worker})" if response.worker else ""
    cls, hint = _ERRORS[response.outcome]
    # What the server wrote about arguments and results names the procedure itself.
    subject = "" if cls in (InvalidArguments, InvalidResult) else f"{procedure}: "
    return cls(f"{subject}{response.error}{worker}{hint}", procedure=procedure)


_ERRORS: dict[str, tuple[type[CallError], str]] = {
    "refused": (InvalidArguments, ""),
    "invalid": (InvalidResult, ""),
    "expired": (CallTimeout, "; raise the timeout, or see what keeps the workers"),
    "cancelled": (CallCancelled, ""),
    "lost": (WorkerLost, "; it may have done the work, or part of it"),
    "unserved": (NoWorkerAvailable, "; start one, or call with wait=True"),
}


def _remote_error(response: Response, *, procedure: str, allowed: Mapping[str, type[Exception]]) -> Exception:
    remote = RemoteError(
        f"{procedure} raised {response.error_type}: {response.error}",
        procedure=procedure,
        remote_type=response.error_type or "",
        remote_traceback=response.traceback or "",
    )
    cls = allowed.get(remote.remote_type)
    if cls is None or response.error_arguments is None:
        return remote
    try:
        original = cls(*msgspec.json.decode(response.error_arguments, type=list))
    except Exception:  # a constructor that wants other things than what the error's `args` hold
        return remote
    original.__cause__ = remote
    return original
