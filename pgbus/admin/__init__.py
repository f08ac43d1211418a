"""Operators' verbs: how the bus is doing, what happened to an event, and the changes that a person makes."""

from pgbus.admin.conditions import Condition
from pgbus.admin.name_filter import Names
from pgbus.admin.records import (
    Attempt,
    BusStatus,
    CallFilter,
    CallRecord,
    DeadFilter,
    DeadLetter,
    EventFilter,
    EventRecord,
    GivenUp,
    ListenerStatus,
    Owed,
    WorkerStatus,
)
from pgbus.admin.schedules import ScheduleRun, ScheduleStatus
from pgbus.admin.verbs import Admin

__all__ = [
    "Admin",
    "Attempt",
    "BusStatus",
    "CallFilter",
    "CallRecord",
    "Condition",
    "DeadFilter",
    "DeadLetter",
    "EventFilter",
    "EventRecord",
    "GivenUp",
    "ListenerStatus",
    "Names",
    "Owed",
    "ScheduleRun",
    "ScheduleStatus",
    "WorkerStatus",
]
