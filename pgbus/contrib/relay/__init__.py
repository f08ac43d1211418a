"""Relays: events of this bus to another system, and messages of another system into this bus."""
