"""Whether publishers wake the leader, and the leader the workers."""

from __future__ import annotations

from dataclasses import dataclass

from pgbus.database import probes
from pgbus.database.statements import doctor
from pgbus.database.statements.doctor import NotificationQueue
from pgbus.doctor.checks import Check, Group, Judgement, Patient, fault, ok, warning

LIMIT = 1.0
"""Seconds in which a notification should arrive; it takes milliseconds."""
WAITING = 10
"""Commits that may wait at once for the lock of the queue."""


@dataclass(frozen=True, slots=True)
class Waking:
    """The evidence: the queue, how long a notification took in seconds (None: too long), and the pooler, if any."""

    queue: NotificationQueue
    seconds: float | None
    pooler: str | None


async def read(patient: Patient) -> Waking:
    """Send a notification to ourselves, and return how it went, with the queue."""
    pooler = await probes.find_pooler(patient.config)
    seconds = None if pooler else await probes.time_notification(patient.config, limit=LIMIT)
    return Waking(await doctor.read_notification_queue(patient.store), seconds, pooler)


def _judge_pooler(found: Waking) -> Judgement:
    if found.pooler:
        return fault(found.pooler, "PGBUS_DIRECT_DSN=postgresql://the-database-itself/name")
    return ok("the sessions of workers are their own")


def _judge_wakeup(found: Waking) -> Judgement:
    if found.seconds is None:
        return fault(
            f"no notification arrived within {LIMIT:.0f} s: events wait for poll_interval",
            "PGBUS_DIRECT_DSN=postgresql://the-database-itself/name",
        )
    return ok(f"a notification arrived after {found.seconds * 1000:.0f} ms")


def _judge_queue(found: Waking) -> Judgement:
    usage = found.queue.usage
    if usage < 0.1:
        return ok(f"the queue of notifications is {usage:.0%} full")
    judged = fault if usage >= 0.5 else warning
    return judged(
        f"the queue of notifications is {usage:.0%} full: a session that listens has a transaction open; when it is "
        "full, commits that notify fail",
        "SELECT pid, state, xact_start FROM pg_stat_activity WHERE xact_start IS NOT NULL ORDER BY xact_start",
    )


def _judge_lock(found: Waking) -> Judgement:
    if found.queue.waiting < WAITING:
        return ok(f"{found.queue.waiting} commits wait for the lock of notifications")
    return warning(
        f"{found.queue.waiting} commits wait for the lock that all commits with a NOTIFY share",
        "SELECT pid, query FROM pg_stat_activity WHERE wait_event_type IN ('Lock', 'IPC') ORDER BY xact_start",
    )


GROUP = Group(
    "notifications",
    read,
    (
        Check("pooler", "A pooler in transaction mode loses LISTEN and the locks of live workers", _judge_pooler),
        Check("wakeup", "A notification that does not arrive makes events wait for the next poll", _judge_wakeup),
        Check("notification-queue", "A full queue of notifications makes commits fail", _judge_queue),
        Check("notification-lock", "Commits with a NOTIFY wait for one lock of the whole server", _judge_lock),
    ),
)
