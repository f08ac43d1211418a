"""Operators' verbs: how the bus is doing, what happened to an event, and the changes that a person makes."""

from pgbus.admin.conditions import Condition
from pgbus.admin.filters import CallFilter, DeadFilter, EventFilter
from pgbus.admin.name_filter import Names
from pgbus.admin.verbs import Admin, BusStatus
from pgbus.database.statements.inspection import (
    Attempt,
    CallRecord,
    DeadLetter,
    EventRecord,
    GivenUp,
    ListenerStatus,
    Owed,
    WorkerStatus,
)
from pgbus.database.statements.timetable import ScheduleRun, ScheduleStatus

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
