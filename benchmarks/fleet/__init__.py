"""A simulated fleet: many workers and services, one leader, and costs that were measured on a real PostgreSQL."""
