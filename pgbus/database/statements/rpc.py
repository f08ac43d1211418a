"""The life of a call: posted, claimed, answered, read; and who serves which procedure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, TypeAlias
from uuid import UUID

import msgspec

from pgbus.database.store import Store

CallOutcome: TypeAlias = Literal["answered", "failed", "refused", "invalid", "expired", "cancelled", "lost", "unserved"]


class Request(msgspec.Struct, frozen=True, eq=False):
    """A call as the caller posts it; `arguments` and `headers` are JSON text, `timeout` seconds."""

    call_id: UUID
    procedure: str
    arguments: str
    timeout: float
    headers: str | None = None

    @property
    def size(self) -> int:
        """The length of the JSON, in characters."""
        return len(self.arguments)


class ClaimedRequest(msgspec.Struct, frozen=True):
    """A call as the server claimed it; the server gives it up after `seconds_left`."""

    call_id: UUID
    procedure: str
    arguments: str
    headers: str | None
    caller: str
    seconds_left: float


class Response(msgspec.Struct, frozen=True):
    """The response to a call; `result` and `error_arguments` are JSON text."""

    call_id: UUID
    outcome: CallOutcome
    result: str | None = None
    error_type: str | None = None
    error: str | None = None
    error_arguments: str | None = None
    traceback: str | None = None
    worker: str | None = None

    @property
    def size(self) -> int:
        """The length of the JSON, in characters."""
        return len(self.result or "")


class Serving(msgspec.Struct, frozen=True):
    """A procedure that a worker serves: at most `concurrency` calls at once; `timeout` is the declared one, in
    seconds.
    """

    procedure: str
    concurrency: int
    timeout: float | None


class Served(msgspec.Struct, frozen=True):
    """A procedure that was registered once: whether a live worker serves it, and its declared timeout in seconds."""

    procedure: str
    is_served: bool
    timeout: float | None


class Stranger(msgspec.Struct, frozen=True):
    """A live worker of another service that serves a procedure of ours."""

    procedure: str
    worker: str
    service: str


class Answered(msgspec.Struct, frozen=True):
    """The notification of one caller: `payload`, or `hint` if one of the calls already had another response."""

    channel: str
    payload: str
    hint: str


# --------------------------------------------------------------------------------------------------- who serves what


async def register_procedures(store: Store, servings: Sequence[Serving], *, worker_id: int) -> None:
    """Make these the procedures that a worker serves, and no others."""
    await store.fetch(
        "register_procedures",
        worker_id=worker_id,
        procedures=[serving.procedure for serving in servings],
        concurrencies=[serving.concurrency for serving in servings],
        timeouts=[serving.timeout for serving in servings],
    )


async def find_strangers(
    store: Store, procedures: Sequence[str], *, worker_id: int, service: str, home: str | None
) -> list[Stranger]:
    """For each of these procedures that live workers of other services serve, one of those workers."""
    rows = await store.fetch("find_strangers", procedures=procedures, worker_id=worker_id, service=service, home=home)
    return [Stranger(procedure=row["procedure"], worker=row["worker"], service=row["service"]) for row in rows]


async def find_servers(store: Store, procedures: Sequence[str]) -> list[Served]:
    """Those of these procedures that were ever registered."""
    rows = await store.fetch("find_servers", procedures=procedures)
    return [Served(procedure=row["procedure"], is_served=row["is_served"], timeout=row["timeout"]) for row in rows]


# -------------------------------------------------------------------------------------------------- the caller's side


async def post_requests(
    store: Store, requests: Sequence[Request], *, caller: str, caller_name: str, channel: str, payload: str
) -> None:
    """Insert requests, and notify the servers. Posted again after the link broke, a request is there once."""
    await store.fetch(
        "post_requests",
        call_ids=[request.call_id for request in requests],
        procedures=[request.procedure for request in requests],
        arguments=[request.arguments for request in requests],
        timeouts=[request.timeout for request in requests],
        headers=[request.headers for request in requests],
        caller=caller,
        caller_name=caller_name,
        channel=channel,
        payload=payload,
    )


async def fetch_responses(store: Store, call_ids: Sequence[UUID]) -> list[Response]:
    """The responses that there are to these calls."""
    rows = await store.fetch("fetch_responses", call_ids=call_ids)
    return [Response(**row) for row in rows]


async def withdraw_requests(store: Store, call_ids: Sequence[UUID], *, outcome: CallOutcome, error: str) -> set[UUID]:
    """End those of these calls that no server has claimed yet, with this outcome; their ids."""
    rows = await store.fetch("withdraw_requests", call_ids=call_ids, outcome=outcome, error=error)
    return {row["call_id"] for row in rows}


async def fail_lost_calls(store: Store, call_ids: Sequence[UUID]) -> None:
    """End those of these calls that a dead worker claimed as lost."""
    await store.fetch("fail_lost_calls", call_ids=call_ids)


# -------------------------------------------------------------------------------------------------- the server's side


async def claim_requests(store: Store, rooms: Mapping[str, int], *, worker_id: int) -> list[ClaimedRequest]:
    """Claim the oldest waiting requests that are not past their deadline; `rooms` says how many, by procedure."""
    return _claimed(await store.fetch("claim_requests", **_claiming(rooms, worker_id)))


async def answer_requests(
    store: Store, responses: Sequence[Response], *, worker: str, told: Sequence[Answered]
) -> None:
    """Write responses, and notify the callers. A call that has a response keeps it."""
    await store.fetch("answer_requests", **_answering(responses, worker, told))


async def answer_and_claim(
    store: Store,
    responses: Sequence[Response],
    rooms: Mapping[str, int],
    *,
    worker: str,
    told: Sequence[Answered],
    worker_id: int,
) -> list[ClaimedRequest]:
    """`answer_requests` and `claim_requests` in one statement: both happen, or neither."""
    values = _answering(responses, worker, told) | _claiming(rooms, worker_id)
    return _claimed(await store.fetch("answer_and_claim", **values))


def _claiming(rooms: Mapping[str, int], worker_id: int) -> dict[str, object]:
    return {"procedures": list(rooms), "rooms": list(rooms.values()), "worker_id": worker_id}


def _claimed(rows: Sequence[Any]) -> list[ClaimedRequest]:
    return [
        ClaimedRequest(
            call_id=row["call_id"],
            procedure=row["procedure"],
            arguments=row["arguments"],
            headers=row["headers"],
            caller=row["caller"],
            seconds_left=row["seconds_left"],
        )
        for row in rows
    ]


def _answering(responses: Sequence[Response], worker: str, told: Sequence[Answered]) -> dict[str, object]:
    return {
        "worker": worker,
        "call_ids": [response.call_id for response in responses],
        "outcomes": [response.outcome for response in responses],
        "results": [response.result for response in responses],
        "error_types": [response.error_type for response in responses],
        "errors": [response.error for response in responses],
        "error_arguments": [response.error_arguments for response in responses],
        "tracebacks": [response.traceback for response in responses],
        "channels": [one.channel for one in told],
        "payloads": [one.payload for one in told],
        "hints": [one.hint for one in told],
    }


async def fail_unknown_claims(store: Store, *, worker_id: int, worker: str, known: Collection[UUID]) -> None:
    """End as lost what a worker has claimed according to the database, and does not know of."""
    await store.fetch("fail_unknown_claims", worker_id=worker_id, worker=worker, known=list(known))
