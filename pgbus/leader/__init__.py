"""The leader: sequences the outbox into the log, and does maintenance."""
