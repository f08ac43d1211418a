"""Benchmarks: ratios against the raw floor in the same run, for machines differ and are noisy.

`python -m benchmarks [NAME ...]` runs all or some on an embedded, durable PostgreSQL, or on PGBUS_BENCH_DSN.
"""
