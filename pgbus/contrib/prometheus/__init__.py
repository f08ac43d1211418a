"""Prometheus: metrics of a process, gauges of the database by the leader, and an ASGI app that shows both."""

from pgbus.contrib.prometheus.app import MonitoringApp
from pgbus.contrib.prometheus.process import ProcessMetrics

__all__ = ["MonitoringApp", "ProcessMetrics"]
