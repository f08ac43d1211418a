"""Relays against real brokers: one contract that each of them passes, and chaos."""
