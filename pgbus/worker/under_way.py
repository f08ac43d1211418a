"""The calls that run in a worker: it reports them to operators, and its stop waits for them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Literal
from uuid import UUID

import msgspec

from pgbus.aio.clock import now
from pgbus.listeners.handler_call import HandlerCall
from pgbus.telemetry.figures import duration
from pgbus.worker.parts import Parts

logger = logging.getLogger("pgbus")

# Seconds that a call has run for before it is reported, and the number of calls in a report.
WORTH_REPORTING = 1.0
MOST_REPORTED = 100
# Seconds between two lines about what a stop still waits for.
SAY_INTERVAL = 10.0


class Work(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A call of a handler, procedure or task, and the seconds that it has run for.

    `id` is the event's, or the call's; that of the first event of a batch, which has `events`.
    """

    kind: Literal["listener", "procedure", "schedule"]
    name: str
    age: float
    id: UUID | None = None
    attempt: int = 1
    events: int = 1
    position: int | None = None
    topic: str | None = None
    key: str | None = None


def work_of(parts: Parts) -> list[Work]:
    """Everything of a user's that runs in a worker, except background tasks, which a stop cancels."""
    calls = [
        Work(kind="procedure", name=one.procedure.name, age=time.monotonic() - one.started, id=one.request.call_id)
        for one in parts.server.calls
    ]
    runs = [
        Work(kind="schedule", name=one.schedule.name, age=time.monotonic() - one.started, attempt=one.attempt)
        for one in parts.tasks.runs
    ]
    return [*(_handling(name, call) for name, call in parts.runners.calls), *calls, *runs]


def _handling(listener_name: str, call: HandlerCall) -> Work:
    event = call.events[0]
    return Work(
        kind="listener",
        name=listener_name,
        age=now() - call.started,
        id=event.event_id,
        attempt=call.attempt,
        events=len(call.events),
        position=event.position,
        topic=event.topic,
        key=event.key,
    )


def report(work: Iterable[Work]) -> str:
    """Calls that have run for a second or more, as JSON for `workers.running`; the longest first, at most 100."""
    # Each heartbeat writes it into the worker's row, so short calls, which would be over by the time that it is read,
    # are left out.
    long = sorted((one for one in work if one.age >= WORTH_REPORTING), key=lambda one: -one.age)
    return msgspec.json.encode(long[:MOST_REPORTED]).decode()


def describe(work: Iterable[Work]) -> str:
    """On one line, what has run longest first: `listener mailer (2 calls, the longest for 12 s), schedule x (2 s)`."""
    by_name: dict[str, list[float]] = {}
    for one in sorted(work, key=lambda one: -one.age):
        by_name.setdefault(f"{one.kind} {one.name}", []).append(one.age)
    return ", ".join(
        f"{name} ({duration(ages[0])})"
        if len(ages) == 1
        else f"{name} ({len(ages)} calls, the longest for {duration(ages[0])})"
        for name, ages in by_name.items()
    )


async def say_what_runs(look: Callable[[], Sequence[Work]], *, limit: float) -> None:
    """Log what a stop waits for, at once and every 10 s, until nothing runs or `limit` seconds have passed."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit
    work = look()
    if not (work and limit > 0):
        logger.info("stopping")
        return
    logger.info("stopping; waiting up to %.0f s for %s; a second signal does not wait", limit, describe(work))
    while (left := deadline - loop.time()) > SAY_INTERVAL:
        await asyncio.sleep(SAY_INTERVAL)
        if not (work := look()):
            return
        logger.info("still waiting, up to %.0f s more, for %s", left - SAY_INTERVAL, describe(work))
