"""The plugin `opentelemetry`, which the configuration enables in every process of a service."""

from __future__ import annotations

from pgbus.config import Config
from pgbus.contrib.opentelemetry.instrument import OpenTelemetry
from pgbus.plugins import Plugin


class OpenTelemetryPlugin(Plugin):
    """Instruments the bus with the tracer and meter providers of the process, which its SDK has set."""

    def __init__(self, instrument: OpenTelemetry) -> None:
        self.instruments = (instrument,)

    @classmethod
    def from_config(cls, *, config: Config, create_spans: bool = True) -> OpenTelemetryPlugin:
        """Create the plugin. `create_spans`: `publish_many` makes a span for each event, and not only one for all."""
        return cls(OpenTelemetry(config, create_spans=create_spans))
