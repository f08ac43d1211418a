"""Alert rules in the format of Prometheus's rule files; each says what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert: it fires when `expression` has held for `duration`; `remedy` says what to do."""

    name: str
    expression: str
    duration: str
    severity: Literal["page", "ticket"]
    summary: str
    remedy: str


ALERTS = (
    Alert(
        "PgbusNoLeader",
        "absent(pgbus_outbox_oldest_seconds)",
        "2m",
        "page",
        "No process leads, or it is not scraped: events do not enter the log",
        "Look at `pgbus status`. If it names a leader, scrape that process; else start a worker.",
    ),
    Alert(
        "PgbusOutboxStuck",
        "max(pgbus_outbox_oldest_seconds) > 60",
        "2m",
        "page",
        "An event has been in the outbox for {{ $value | humanizeDuration }}",
        "Look at the log of the leader that `pgbus status` names; restart it if it hangs.",
    ),
    Alert(
        "PgbusListenerLags",
        "max by (listener_name) (pgbus_listener_lag_seconds) > 300",
        "10m",
        "page",
        "The oldest event of {{ $labels.listener_name }} has waited for {{ $value | humanizeDuration }}",
        "Look at `pgbus listeners list`: a listener without workers needs one, a slow one needs more.",
    ),
    Alert(
        "PgbusNewDeadLetters",
        "max by (listener_name) (pgbus_listener_dead) > max by (listener_name) (pgbus_listener_dead offset 15m)",
        "0m",
        "ticket",
        "{{ $labels.listener_name }} gave up on events in the last 15 minutes",
        "Read the errors with `pgbus dead list`, mend the cause, then `pgbus dead retry`.",
    ),
    Alert(
        "PgbusKeyBlocked",
        "max by (listener_name) (pgbus_listener_blocked_keys) > 0",
        "5m",
        "page",
        "{{ $value }} keys of {{ $labels.listener_name }} wait for a person",
        "Retry or discard the dead letter of each: `pgbus dead list`.",
    ),
    Alert(
        "PgbusHandlersFail",
        'sum by (listener_name) (rate(pgbus_handled_events_total{outcome!="done"}[10m]))'
        " / sum by (listener_name) (rate(pgbus_handled_events_total[10m])) > 0.1",
        "15m",
        "ticket",
        "{{ $value | humanizePercentage }} of the attempts of {{ $labels.listener_name }} fail",
        "Read the worker's log, or the column error of pgbus.attempts.",
    ),
    Alert(
        "PgbusScheduleOverdue",
        "max by (schedule_name) (pgbus_schedule_overdue_seconds) > 300",
        "5m",
        "ticket",
        "{{ $labels.schedule_name }} should have begun {{ $value | humanizeDuration }} ago",
        "Look at `pgbus schedules list`: no live worker may declare it any more.",
    ),
    Alert(
        "PgbusPartFails",
        "sum by (part) (increase(pgbus_part_failures_total[15m])) > 0",
        "0m",
        "ticket",
        "{{ $labels.part }} ended by a fault of code, and began again",
        "Read the traceback in the worker's log.",
    ),
    Alert(
        "PgbusSessionsLost",
        "sum by (instance) (increase(pgbus_lost_sessions_total[15m])) > 3",
        "0m",
        "ticket",
        "{{ $labels.instance }} keeps losing its session with the database",
        "Look for restarts of PostgreSQL, and for proxies that end idle connections.",
    ),
    Alert(
        "PgbusDatabaseUnread",
        "sum by (instance) (increase(pgbus_failed_database_reads_total[15m])) > 3",
        "0m",
        "ticket",
        "{{ $labels.instance }} cannot read the gauges of the database",
        "Read its log: a grant may be missing, or the read takes longer than 5 seconds.",
    ),
)


def alert_rules() -> dict[str, object]:
    """The content of a rule file."""
    return {
        "groups": [
            {
                "name": "pgbus",
                "rules": [
                    {
                        "alert": alert.name,
                        "expr": alert.expression,
                        "for": alert.duration,
                        "labels": {"severity": alert.severity},
                        "annotations": {"summary": alert.summary, "description": alert.remedy},
                    }
                    for alert in ALERTS
                ],
            }
        ]
    }
