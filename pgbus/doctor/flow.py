"""The bus itself: whether events enter the log, and whether listeners, calls and schedules get on with their work."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pgbus.config import Config
from pgbus.database.statements import doctor, inspection, timetable
from pgbus.database.statements.doctor import (
    ParkedEvents,
    QuietSubscription,
    RecentDeadLetters,
    RecentWork,
    Space,
    UnansweredCalls,
)
from pgbus.database.statements.inspection import ListenerStatus, LogStatus, WorkerStatus
from pgbus.database.statements.timetable import ScheduleStatus
from pgbus.doctor.checks import Check, Group, Judgement, Patient, fault, listed, ok, warning
from pgbus.telemetry.figures import counted, duration

LAG = 300.0
"""Seconds that a listener may be behind."""
LATE = 60.0
"""Seconds that a schedule's run may be late."""


@dataclass(frozen=True, slots=True)
class Flow:
    """The state of everything that flows, in one snapshot of each."""

    config: Config
    now: datetime
    log: LogStatus
    space: Space
    workers: tuple[WorkerStatus, ...]
    listeners: tuple[ListenerStatus, ...]
    schedules: tuple[ScheduleStatus, ...]
    unheard: tuple[str, ...]
    quiet: tuple[QuietSubscription, ...]
    work: tuple[RecentWork, ...]
    dead: tuple[RecentDeadLetters, ...]
    parked: tuple[ParkedEvents, ...]
    calls: tuple[UnansweredCalls, ...]

    @property
    def live(self) -> list[WorkerStatus]:
        """The workers that are alive."""
        return [worker for worker in self.workers if worker.live]

    def without_worker(self) -> list[ListenerStatus]:
        """Active listeners that no live worker runs."""
        run = {name for worker in self.live for name in worker.listeners}
        return [one for one in self.listeners if one.state == "active" and one.listener_name not in run]


async def read(patient: Patient) -> Flow:
    """Return the state of everything that flows."""
    store = patient.store
    return Flow(
        config=patient.config,
        now=await doctor.read_clock(store),
        log=await inspection.describe_bus(store),
        space=await doctor.read_space(store),
        workers=await inspection.list_workers(store),
        listeners=await inspection.list_listeners(store),
        schedules=await timetable.list_schedules(store),
        unheard=await doctor.find_unheard_topics(store),
        quiet=await doctor.find_quiet_subscriptions(store),
        work=await doctor.read_recent_work(store),
        dead=await doctor.count_recent_dead_letters(store),
        parked=await doctor.count_parked_events(store),
        calls=await doctor.find_unanswered_calls(store),
    )


def _judge_leader(found: Flow) -> Judgement:
    leader = next((worker for worker in found.workers if worker.leading), None)
    # The server ends the session of a leader that hangs: then nobody leads.
    if hung := next((one for one in ([leader] if leader else found.live) if one.hangs), None):
        return fault(
            f"{hung.name} hangs, and nobody else leads: it has been silent for {duration(hung.silent_for)}",
            f"end process {hung.pid} on {hung.host}, and start it again",
        )
    if leader:
        return ok(f"{leader.name} leads")
    if any(worker.asleep for worker in found.live):
        if found.log.is_late:
            return fault("the bus sleeps, and events that wait do not wake its workers", "restart the workers")
        return ok(f"the bus sleeps: nothing is owed, and the next event wakes {counted(len(found.live), 'worker')}")
    if found.live:
        workers = counted(len(found.live), "live worker")
        return fault(f"{workers}, and none leads: no event enters the log", "pgbus status")
    return fault(f"no worker runs: {counted(found.log.outbox_waiting, 'event')} cannot enter the log", "pgbus run")


def _judge_outbox(found: Flow) -> Judgement:
    events = counted(found.log.outbox_waiting, "event")
    if not found.log.is_late:
        return ok(f"{events} on the way into the log")
    return fault(f"{events} not in the log yet, the oldest after {duration(found.log.outbox_age)}", "pgbus status")


def _judge_gone(found: Flow) -> Judgement:
    ttl = 2 * found.config.worker_ttl
    gone = [one.name for one in found.workers if not one.live and (found.now - one.last_seen_at).total_seconds() > ttl]
    if gone:
        return warning(
            f"{listed(gone)} ended more than {duration(ttl)} ago and is still listed: no leader cleans up", "pgbus run"
        )
    return ok(counted(len(found.live), "live worker"))


def _judge_failures(found: Flow) -> Judgement:
    failures = [(worker.name, part, error) for worker in found.live for part, error in worker.failures.items()]
    if failures:
        name, part, error = failures[0]
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        return fault(
            f"{part} of {name} failed by a fault of code and waits to begin again: {error}{more}", "pgbus status"
        )
    return ok("no part of a worker has failed")


def _judge_versions(found: Flow) -> Judgement:
    versions = sorted({worker.version for worker in found.live})
    if len(versions) > 1:
        return warning(f"workers run pgbus {' and '.join(versions)}: a deploy is not finished", "pgbus status")
    return ok(f"all workers run pgbus {versions[0]}" if versions else "no worker runs")


def _judge_unstaffed(found: Flow) -> Judgement:
    without = found.without_worker()
    owed = [one for one in without if one.lag_events]
    if owed:
        worst = max(owed, key=lambda one: one.lag_events)
        return fault(
            f"no worker runs {listed([one.listener_name for one in owed])}; {worst.listener_name} is owed "
            f"{counted(worst.lag_events, 'event')}",
            "pgbus run, with the code that declares it",
        )
    if without:
        return warning(
            f"no worker runs {listed([one.listener_name for one in without])}",
            f"pgbus listeners remove {without[0].listener_name}, if it is gone for good",
        )
    return ok(f"workers run each of {counted(len(found.listeners), 'listener')}")


def _judge_paused(found: Flow) -> Judgement:
    paused = [one for one in found.listeners if one.state == "paused" and one.lag_events]
    if paused:
        worst = max(paused, key=lambda one: one.lag_events)
        return warning(
            f"{listed([one.listener_name for one in paused])} is paused; {worst.listener_name} is owed "
            f"{counted(worst.lag_events, 'event')}",
            f"pgbus listeners resume {worst.listener_name}",
        )
    return ok("no event waits for a paused listener")


def _judge_lag(found: Flow) -> Judgement:
    idle = {one.listener_name for one in found.without_worker()}
    late = [
        one
        for one in found.listeners
        if one.state == "active" and one.lag_seconds > LAG and one.listener_name not in idle
    ]
    if late:
        worst = max(late, key=lambda one: one.lag_seconds)
        return warning(
            f"{worst.listener_name} is behind by {duration(worst.lag_seconds)} "
            f"and {counted(worst.lag_events, 'event')}",
            f"pgbus events --owed-to {worst.listener_name}",
        )
    return ok(f"no listener is behind by more than {duration(LAG)}")


def _judge_blocked(found: Flow) -> Judgement:
    blocked = [one for one in found.listeners if one.blocked]
    if blocked:
        worst = max(blocked, key=lambda one: one.blocked)
        return fault(
            f"a dead letter with the same key holds up {counted(worst.blocked, 'event')} of {worst.listener_name}",
            f"pgbus dead list --listener {worst.listener_name}",
        )
    return ok("no key is blocked")


def _judge_parked(found: Flow) -> Judgement:
    if not found.parked:
        return ok("no event waits for another version of its listener")
    worst = found.parked[0]
    return warning(
        f"no live worker can handle {counted(worst.events, 'event')} of {worst.listener_name}: {worst.reason}",
        f"pgbus schema check MODULE; deploy the version of {worst.listener_name} that reads them",
    )


def _judge_dead(found: Flow) -> Judgement:
    recent = [one for one in found.dead if one.recent]
    if recent:
        worst = max(recent, key=lambda one: one.recent)
        return warning(
            f"{worst.listener_name} has {counted(worst.recent, 'dead letter')} of the last hour, {worst.dead:,} in all",
            f"pgbus dead list --listener {worst.listener_name}",
        )
    return ok(f"no new dead letter within an hour; older ones: {sum(one.dead for one in found.dead):,}")


def _judge_attempts(found: Flow) -> Judgement:
    failing = [one for one in found.work if one.attempts >= 10 and one.failed * 2 > one.attempts]
    if failing:
        worst = max(failing, key=lambda one: one.failed)
        return warning(
            f"{worst.failed:,} of {counted(worst.attempts, 'attempt')} of {worst.listener_name} failed "
            "within 15 minutes",
            f"pgbus inspect --owed-to {worst.listener_name}",
        )
    return ok(
        f"{sum(one.failed for one in found.work):,} of {counted(sum(one.attempts for one in found.work), 'attempt')} "
        "failed within 15 minutes"
    )


def _judge_leases(found: Flow) -> Judgement:
    slow = [one for one in found.work if one.longest > found.config.lease]
    if slow:
        worst = max(slow, key=lambda one: one.longest)
        return warning(
            f"handlers of {worst.listener_name} take up to {duration(worst.longest)}, longer than the lease of "
            f"{duration(found.config.lease)}: one that blocks its event loop that long loses its claim",
            f"PGBUS_LEASE={2 * worst.longest:.0f}",
        )
    return ok(f"handlers take less than the lease of {duration(found.config.lease)}")


def _judge_unheard(found: Flow) -> Judgement:
    if found.unheard:
        return warning(
            f"no listener hears {listed(found.unheard)}, of the last 10,000 events",
            "pgbus listeners list, and look for a name that is spelled otherwise",
        )
    return ok("listeners hear every topic of the last 10,000 events")


def _judge_quiet(found: Flow) -> Judgement:
    if found.quiet:
        first = found.quiet[0]
        more = f" (and {len(found.quiet) - 1} more)" if len(found.quiet) > 1 else ""
        return warning(
            f"{first.listener_name} waits for {first.pattern}, which nobody declares or has published lately{more}",
            "pgbus schema dump, and look for a name that is spelled otherwise",
        )
    return ok("every subscription matches something that is published")


def _judge_schedules(found: Flow) -> Judgement:
    late = [
        one
        for one in found.schedules
        if one.state == "active" and one.next_run_at and (found.now - one.next_run_at).total_seconds() > LATE
    ]
    if late:
        worst = min(late, key=lambda one: one.next_run_at or found.now)
        return fault(
            f"{listed([one.schedule_name for one in late])} should have run at {worst.next_run_at:%Y-%m-%d %H:%M:%SZ}",
            "pgbus run, with the code that declares it",
        )
    return ok(f"{counted(len(found.schedules), 'schedule')}, none late")


def _judge_runs(found: Flow) -> Judgement:
    failed = [one for one in found.schedules if one.last_outcome in ("failed", "lost")]
    if failed:
        first = failed[0]
        return warning(
            f"the newest run of {listed([one.schedule_name for one in failed])} {first.last_outcome}: "
            f"{first.last_error or 'its worker died'}",
            f"pgbus schedules runs {first.schedule_name}",
        )
    return ok("the newest run of each schedule succeeded")


def _judge_calls(found: Flow) -> Judgement:
    if found.calls:
        worst = max(found.calls, key=lambda one: one.unserved + one.unanswered)
        return warning(
            f"{counted(worst.unserved, 'call')} of {worst.procedure} found no worker that serves it and "
            f"{worst.unanswered:,} no answer in time, within 10 minutes",
            f"pgbus inspect --calls {worst.procedure}",
        )
    return ok("every call of the last 10 minutes was answered in time")


def _judge_retention(found: Flow) -> Judgement:
    space, retention = found.space, found.config.retention
    size = f"{space.bytes >> 20:,} MB in {duration((found.now - space.began_at).total_seconds())}"
    if retention is None or space.ended_at is None:
        return ok(f"{size}; {'kept forever' if retention is None else 'one period'}")
    late = (found.now - space.ended_at).total_seconds() - retention
    if late < found.config.poll_interval + 3600:
        return ok(f"{size}; kept for {duration(retention)}")
    if space.debtor:
        return warning(
            f"the oldest period of the log is kept {duration(late)} too long: events of it are owed to {space.debtor}",
            f"pgbus dead list --listener {space.debtor}",
        )
    return warning(f"the oldest period of the log is kept {duration(late)} too long: no leader drops it", "pgbus run")


GROUP = Group(
    "bus",
    read,
    (
        Check("leader", "Without a leader no event enters the log", _judge_leader),
        Check("outbox", "Events that wait in the outbox reach nobody", _judge_outbox),
        Check("gone-workers", "A worker that is gone stays listed when no leader cleans up", _judge_gone),
        Check(
            "failed-parts",
            "A part of a worker that failed by a fault of code does nothing until it restarts",
            _judge_failures,
        ),
        Check("versions", "Workers of different versions mean that a deploy is not finished", _judge_versions),
        Check("unstaffed-listeners", "A listener that no worker runs falls behind forever", _judge_unstaffed),
        Check("paused-listeners", "A listener that someone paused and forgot falls behind", _judge_paused),
        Check("lag", "A listener that is behind handles events late", _judge_lag),
        Check("blocked-keys", "Events of a blocked key wait until a person decides", _judge_blocked),
        Check("parked-events", "Events of a new version wait until the code that reads them runs", _judge_parked),
        Check("dead-letters", "An event that a listener gave up on waits for a person", _judge_dead),
        Check(
            "failing-listeners",
            "When most attempts of a listener fail, it is broken, or what it calls",
            _judge_attempts,
        ),
        Check("leases", "A handler that blocks its event loop longer than its lease runs twice", _judge_leases),
        Check("unheard-topics", "An event that nobody hears is often a misspelled topic", _judge_unheard),
        Check("quiet-subscriptions", "A subscription that matches nothing is often a misspelled topic", _judge_quiet),
        Check("late-schedules", "A schedule that does not run in time probably has no worker", _judge_schedules),
        Check("failed-runs", "A scheduled run failed and is not tried again", _judge_runs),
        Check("unanswered-calls", "Calls that nobody answers make callers wait", _judge_calls),
        Check("retention", "A log that is not dropped in time fills the disk", _judge_retention),
    ),
)
