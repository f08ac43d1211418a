"""Dashboards and alerts for Grafana and Prometheus, as `pgbus grafana` prints them."""

from pgbus.grafana.alerts import alert_rules
from pgbus.grafana.dashboards import prometheus_dashboard, sql_dashboard

__all__ = ["alert_rules", "prometheus_dashboard", "sql_dashboard"]
