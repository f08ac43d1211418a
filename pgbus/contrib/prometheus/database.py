"""The gauges of the database: outbox, listeners, workers, schedules. Only the leader's process reads and shows them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry
from prometheus_client import Counter as CounterMetric
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pgbus.admin import Admin, BusStatus, ListenerStatus, ScheduleStatus
from pgbus.config import Config

logger = logging.getLogger("pgbus")

# Seconds. Several scrapers, or one that is too eager, read the database no more often than this.
READ_INTERVAL = 5.0
READ_TIMEOUT = 5.0


class DatabaseMetrics(Collector):
    """Shows what `refresh` has read last, and nothing before that."""

    def __init__(self, config: Config, *, registry: CollectorRegistry) -> None:
        self._config = config
        self._status: BusStatus | None = None
        self._read_at = 0.0
        self._reading = asyncio.Lock()
        self._failures = CounterMetric(
            "pgbus_failed_database_reads",
            "Times that the leader could not read the gauges of the database",
            registry=registry,
        )
        registry.register(self)

    async def refresh(self, *, leads: bool) -> None:
        """Read the database if we lead, and what was read last is 5 seconds old; show nothing if we do not."""
        if not leads:
            self._status = None
            return
        async with self._reading:
            if self._status and time.monotonic() - self._read_at < READ_INTERVAL:
                return
            try:
                async with asyncio.timeout(READ_TIMEOUT), Admin.connect(self._config) as admin:
                    self._status = await admin.status()
                self._read_at = time.monotonic()
            except Exception as error:  # old values would hide that
                self._status = None
                self._failures.inc()
                reason = str(error) or f"it took longer than {READ_TIMEOUT:g} s"
                logger.warning("the metrics of the database could not be read: %s", reason)

    def describe(self) -> Iterator[Metric]:
        """Return every family, without samples."""
        return self._families(BusStatus(0, 0, 0.0, 0, "", (), (), ()))

    def collect(self) -> Iterator[Metric]:
        """Return what was read last."""
        return self._families(self._status) if self._status else iter(())

    def _families(self, status: BusStatus) -> Iterator[Metric]:
        yield _gauge("pgbus_outbox_events", "Events that are due and not in the log yet", status.outbox_waiting)
        yield _gauge("pgbus_outbox_scheduled_events", "Events that wait for deliver_at", status.outbox_scheduled)
        yield _gauge(
            "pgbus_outbox_oldest_seconds", "Age of the oldest event that is due and not in the log", status.outbox_age
        )
        yield from _of_listeners(status.listeners)
        workers = GaugeMetricFamily("pgbus_workers", "Workers that are alive", labels=["service"])
        for service, count in Counter(worker.service for worker in status.workers if worker.live).items():
            workers.add_metric([service], count)
        yield workers
        overdue = GaugeMetricFamily(
            "pgbus_schedule_overdue_seconds", "Time since a run was due that has not begun", labels=["schedule_name"]
        )
        for schedule in status.schedules:
            overdue.add_metric([schedule.schedule_name], _overdue(schedule))
        yield overdue


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(name, meaning, value=value)


_OF_LISTENERS = {
    "lag_events": "Events that are owed to a listener",
    "lag_seconds": "Age of the oldest event that is owed to a listener",
    "in_flight_events": "Events that workers have claimed for a listener",
    "retrying_events": "Events that wait for another attempt of a listener",
    "dead": "Dead letters of a listener",
    "blocked_keys": "Keys of an ordered listener that wait for a person",
}


def _of_listeners(listeners: tuple[ListenerStatus, ...]) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "pgbus_listener_info", "1 for each listener, to join its service, owner and state to the others",
        labels=["listener_name", "service", "owner", "state"],
    )  # fmt: skip
    for one in listeners:
        info.add_metric([one.listener_name, one.service, one.owner, one.state], 1)
    yield info
    for name, meaning in _OF_LISTENERS.items():
        family = GaugeMetricFamily(f"pgbus_listener_{name}", meaning, labels=["listener_name"])
        for one in listeners:
            family.add_metric([one.listener_name], getattr(one, _FIELDS.get(name, name)))
        yield family


_FIELDS = {"in_flight_events": "in_flight", "retrying_events": "retrying"}


def _overdue(schedule: ScheduleStatus) -> float:
    if schedule.next_run_at is None or schedule.running or schedule.state == "paused":
        return 0.0
    return max(0.0, (datetime.now(UTC) - schedule.next_run_at).total_seconds())
