"""The panels of both dashboards: what each asks, and how its answer is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Query:
    """A query, in PromQL or the name of an SQL statement; `legend` names its series by their labels."""

    text: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel; `unit` is one of Grafana's (`s` for seconds), `width` is in its 24 columns."""

    title: str
    queries: Sequence[Query]
    kind: Literal["timeseries", "stat", "table"] = "timeseries"
    unit: str = "short"
    width: int = 12


_LISTENER = "{{listener_name}}"


def _of_listeners(title: str, metric: str, unit: str = "short") -> Panel:
    # The gauges move with the leader from one instance to another.
    return Panel(title, [Query(f"max by (listener_name) ({metric})", _LISTENER)], unit=unit)


def _p95(metric: str, *labels: str) -> str:
    by = ", ".join(labels)
    return f"histogram_quantile(0.95, sum by (le, {by}) (rate({metric}_bucket[$__rate_interval])))"


def _rate(metric: str, *labels: str) -> str:
    return f"sum by ({', '.join(labels)}) (rate({metric}[$__rate_interval]))"


PROMETHEUS = (
    Panel("Leaders", [Query("sum(pgbus_leader)")], "stat", width=4),
    Panel("Workers", [Query("max by (service) (pgbus_workers)", "{{service}}")], "stat", width=8),
    Panel("Oldest event in the outbox", [Query("max(pgbus_outbox_oldest_seconds)")], "stat", "s", width=4),
    Panel("Dead letters", [Query("sum(max by (listener_name) (pgbus_listener_dead))")], "stat", width=4),
    Panel("Blocked keys", [Query("sum(max by (listener_name) (pgbus_listener_blocked_keys))")], "stat", width=4),
    Panel("Published per second", [Query(_rate("pgbus_published_events_total", "topic"), "{{topic}}")], unit="ops"),
    Panel(
        "Handled per second",
        [Query(_rate("pgbus_handled_events_total", "listener_name", "outcome"), f"{_LISTENER} {{{{outcome}}}}")],
        unit="ops",
    ),
    _of_listeners("Lag", "pgbus_listener_lag_seconds", "s"),
    _of_listeners("Events owed", "pgbus_listener_lag_events"),
    Panel(
        "Latency from publishing to the handler, p95",
        [Query(_p95("pgbus_event_latency_seconds", "listener_name"), _LISTENER)],
        unit="s",
    ),
    Panel(
        "Duration of handlers, p95",
        [Query(_p95("pgbus_handler_duration_seconds", "listener_name"), _LISTENER)],
        unit="s",
    ),
    Panel("Handlers at work", [Query("sum by (listener_name) (pgbus_running_handlers)", _LISTENER)]),
    Panel(
        "Events claimed, and events that wait for another attempt",
        [
            Query("max by (listener_name) (pgbus_listener_in_flight_events)", f"{_LISTENER} in flight"),
            Query("max by (listener_name) (pgbus_listener_retrying_events)", f"{_LISTENER} retrying"),
        ],
    ),
    Panel(
        "Outbox",
        [Query("max(pgbus_outbox_events)", "due"), Query("max(pgbus_outbox_scheduled_events)", "scheduled")],
    ),
    Panel("Sequenced per second", [Query("sum(rate(pgbus_sequenced_events_total[$__rate_interval]))")], unit="ops"),
    Panel("Publishing, p95", [Query(_p95("pgbus_publish_duration_seconds", "outcome"), "{{outcome}}")], unit="s"),
    Panel("Calls, p95", [Query(_p95("pgbus_call_duration_seconds", "procedure"), "{{procedure}}")], unit="s"),
    Panel(
        "Calls served per second",
        [Query(_rate("pgbus_served_call_duration_seconds_count", "procedure", "outcome"), "{{procedure}} {{outcome}}")],
        unit="ops",
    ),
    Panel(
        "Runs of schedules, p95",
        [Query(_p95("pgbus_task_duration_seconds", "schedule_name", "outcome"), "{{schedule_name}} {{outcome}}")],
        unit="s",
    ),
    Panel(
        "Overdue schedules",
        [Query("max by (schedule_name) (pgbus_schedule_overdue_seconds)", "{{schedule_name}}")],
        unit="s",
    ),
    Panel(
        "Faults",
        [
            Query("sum(increase(pgbus_lost_sessions_total[$__rate_interval]))", "lost sessions"),
            Query("sum(increase(pgbus_lost_claims_total[$__rate_interval]))", "lost claims"),
            Query("sum(increase(pgbus_freed_claims_total[$__rate_interval]))", "claims of dead workers"),
            Query("sum by (part) (increase(pgbus_part_failures_total[$__rate_interval]))", "failures of {{part}}"),
            Query("sum(increase(pgbus_failed_database_reads_total[$__rate_interval]))", "failed reads"),
        ],
    ),
    Panel(
        "Events claimed per second",
        [Query(_rate("pgbus_claimed_events_total", "listener_name"), _LISTENER)],
        unit="ops",
    ),
    Panel("Listeners", [Query("max by (listener_name, service, state) (pgbus_listener_info)")], "table", width=24),
)

SQL = (
    Panel("Outbox", [Query("scheduled_events")], "stat", width=6),
    Panel("Live workers", [Query("workers")], "table", width=18),
    Panel("Listeners", [Query("listeners")], "table", width=24),
    Panel("Attempts by outcome", [Query("attempts")]),
    Panel("Duration of handlers, p95", [Query("durations")], unit="s"),
    Panel("Events owed, by state", [Query("pending")], "table"),
    Panel("Dead letters by listener and error", [Query("dead_letters")], "table"),
    Panel("Newest dead letters", [Query("newest_dead_letters")], "table", width=24),
    Panel("Calls by state", [Query("calls")]),
    Panel("Duration of calls, p95", [Query("call_durations")], unit="s"),
    Panel("Runs of schedules", [Query("schedule_runs")]),
    Panel("Schedules", [Query("schedules")], "table"),
)
