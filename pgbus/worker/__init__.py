"""A worker: one process's share of the bus."""
