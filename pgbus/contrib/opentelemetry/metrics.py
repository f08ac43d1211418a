"""The metrics of the conventions: how many messages, and how long operations take, in seconds."""

from __future__ import annotations

from opentelemetry.metrics import Histogram, Meter

from pgbus.contrib.opentelemetry import names


class ConventionMetrics:
    """The instruments of one meter."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.sent = meter.create_counter(
            names.SENT_MESSAGES, unit="{message}", description="Messages that the producer sent to the bus"
        )
        self.consumed = meter.create_counter(
            names.CONSUMED_MESSAGES, unit="{message}", description="Messages that were delivered to the handler"
        )
        self.operations = self._histogram(names.OPERATION_DURATION, "Duration of publishing")
        self.processing = self._histogram(names.PROCESS_DURATION, "Duration of a call of the handler")
        self.calling = self._histogram(names.CLIENT_CALL_DURATION, "Duration of a call, as its caller sees it")
        self.serving = self._histogram(names.SERVER_CALL_DURATION, "Duration of a call in the worker that runs it")

    def _histogram(self, name: str, description: str) -> Histogram:
        return self._meter.create_histogram(
            name, unit="s", description=description, explicit_bucket_boundaries_advisory=names.BUCKETS
        )
