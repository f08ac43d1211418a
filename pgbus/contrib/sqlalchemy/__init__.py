"""SQLAlchemy's ORM: events as rows of a session, and those that its aggregates record."""

from pgbus.contrib.sqlalchemy.outbox_event import OutboxEvent
from pgbus.contrib.sqlalchemy.recording import record_event

__all__ = ["OutboxEvent", "record_event"]
