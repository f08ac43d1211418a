"""OpenTelemetry: spans and metrics of a bus, by the semantic conventions for messaging and RPC."""

from pgbus.contrib.opentelemetry.instrument import OpenTelemetry
from pgbus.contrib.opentelemetry.plugin import OpenTelemetryPlugin

__all__ = ["OpenTelemetry", "OpenTelemetryPlugin"]
